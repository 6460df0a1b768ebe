"""The checks `settings`, `spelling` and `http_port`.

They judge settings that do not fit together, names that only look like settings, and the address where `run` listens.
"""

import errno
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

import httpx

from reconciler.errors import Config, Transient
from reconciler.net.listen import bound
from reconciler.operations.doctor import Check, NotKnown, attempt, fail, ok, warn
from reconciler.settings import Settings, variable

_HEALTHY: Final = "ok\n"
"""What a daemon answers at /healthz."""


def judge_settings(settings: Settings, unreadable: NotKnown | None = None) -> Check:
    """Judge the settings; `unreadable` is the error where PostgreSQL cannot read RECONCILER_TASK_PATTERN."""
    if unreadable is not None:
        return fail("settings", unreadable.reason, unreadable.do)
    if conflicts := _conflicts(settings):
        return warn("settings", "; ".join(conflicts), "See the settings in README.md and docs/OPERATIONS.md.")
    keys = len(settings.kie_keys())
    return ok("settings", f"complete: {keys} key{'' if keys == 1 else 's'} for KIE, storage {settings.storage_backend}")


def _conflicts(settings: Settings) -> list[str]:
    """Return a sentence for each setting that defeats another one; no sentence repeats a value."""
    conflicts = []
    if settings.give_up_after <= settings.stuck_after:
        conflicts.append("RECONCILER_GIVE_UP_AFTER is not longer than RECONCILER_STUCK_AFTER")
    if settings.allow_private_hosts and "*" in settings.result_hosts:
        conflicts.append("results may come from any host of the private network: RECONCILER_RESULT_HOSTS is *")
    if 0 < len(settings.api_token.get_secret_value()) < 16:
        conflicts.append("RECONCILER_API_TOKEN is shorter than 16 characters")
    return conflicts


def judge_spelling(unknown_names: Sequence[str]) -> Check:
    """Judge the names in the environment that begin like settings and are none."""
    if not unknown_names:
        return ok("spelling", "every RECONCILER_ and KIE_ name is a setting")
    settings = [variable(name) for name in Settings.model_fields]
    listed = []
    for name in unknown_names:
        nearest = get_close_matches(name, settings, n=1, cutoff=0.6)
        listed.append(f"{name} (did you mean {nearest[0]}?)" if nearest else name)
    do = "Correct the name or remove it: it has no effect now."
    return warn("spelling", f"no setting has the name {', '.join(listed)}", do)


async def check_http_port(settings: Settings, client: httpx.AsyncClient, *, within: float) -> Check:
    """Judge whether `run` can listen at its address, or a daemon of ours does already."""
    host, port = settings.http_host, settings.http_port
    try:
        bound(host, port).close()
    except Config as error:
        in_use = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}/healthz"
        if in_use and await attempt(lambda: _read_health(client, url), within=within) == _HEALTHY:
            return ok("http_port", f"a daemon answers on {host} port {port}")
        return fail("http_port", f"`run` stops at its start: {error}", error.hint)
    return ok("http_port", f"`run` can listen on {host} port {port}")


async def _read_health(client: httpx.AsyncClient, url: str) -> str:
    try:
        return (await client.get(url)).text[: len(_HEALTHY) + 1]
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Transient(type(error).__name__, code="network") from error
