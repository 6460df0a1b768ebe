"""`GET /`: the history page, as fixed files with a policy that lets nothing else in.

The page itself lives in `page/` and asks the API; nothing of anybody is in it, so it needs no token. The front puts it
among the routes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from fastapi import APIRouter

from reconciler.domain.object_keys import PROVIDER_HOSTS
from reconciler.http.static_files import static
from reconciler.settings import Settings

_FILES = (
    "page.css",
    "icon.svg",
    *(f"{name}.js" for name in ("page", "api", "card", "list", "live", "media", "session", "texts", "time")),
)


def routes(settings: Settings) -> APIRouter:
    """Return the page's routes; its policy allows media from our storage and from where results come."""
    names = {"/": "index.html", **{f"/page/{name}": name for name in _FILES}}
    return static(names, policy=policy(media(settings)))


def policy(sources: Sequence[str]) -> str:
    """Return the Content-Security-Policy: everything of this origin, media also of `sources`."""
    told = " ".join(("'self'", *sources))
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            f"img-src {told}",
            f"media-src {told}",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            # No text ever becomes markup or script, whatever a later hand writes: browsers that know this refuse it.
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def media(settings: Settings) -> tuple[str, ...]:
    """Return where pictures and films may come from, as sources of a policy, each once."""
    ours = (_origin(address) for address in (settings.supabase_url, settings.public_url) if address)
    return tuple(dict.fromkeys((*ours, *_theirs(settings))))


def _theirs(settings: Settings) -> Iterator[str]:
    """The provider's own hosts stay in it where the setting is narrower: links are minted there."""
    if "*" in settings.result_hosts:
        yield "https:"
        return
    for host in settings.provider_hosts:
        if settings.allow_private_hosts and host not in PROVIDER_HOSTS:
            yield f"http://{host}:*"
        yield f"https://{host}"
        yield f"https://*.{host}"


def _origin(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
