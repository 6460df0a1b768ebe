"""The checks `settings` and `spelling`: whether the settings fit together, and names that only look like settings."""

from collections.abc import Sequence
from difflib import get_close_matches

from reconciler.operations.doctor import Check, NotKnown, fail, ok, warn
from reconciler.settings import Settings, variable


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
