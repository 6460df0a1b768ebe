"""`GET /`: the history page, served as fixed files with a strict Content-Security-Policy.

The page lives in `http/page/` and asks the API. Its files hold no user's data, so they need no token.
"""

from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from fastapi import APIRouter

from reconciler.domain.object_keys import PROVIDER_HOSTS
from reconciler.http.static_files import SAME_ORIGIN, static_routes
from reconciler.settings import Settings

_FILES = (
    "page.css",
    "icon.svg",
    *(
        f"{name}.js"
        for name in ("page", "api", "card", "list", "live", "media", "findings", "session", "texts", "time")
    ),
)


def routes(settings: Settings) -> APIRouter:
    """Return the page's routes; the policy allows media from our storage and from the result hosts."""
    names = {"/": "index.html", **{f"/page/{name}": name for name in _FILES}}
    return static_routes(names, policy=content_policy(media_sources(settings)))


def content_policy(sources: Sequence[str]) -> str:
    """Return the Content-Security-Policy: everything from this origin, media also from `sources`."""
    media = " ".join(("'self'", *sources))
    # Browsers that know trusted types refuse to turn text into markup or script, even if later code tries to.
    trusted_types = "require-trusted-types-for 'script'; trusted-types 'none'"
    return f"{SAME_ORIGIN}; img-src {media}; media-src {media}; {trusted_types}"


def media_sources(settings: Settings) -> tuple[str, ...]:
    """Return the sources of pictures and films for a Content-Security-Policy, each once."""
    ours = (_origin(address) for address in (settings.supabase_url, settings.public_url) if address)
    return tuple(dict.fromkeys((*ours, *_result_hosts(settings))))


def _result_hosts(settings: Settings) -> Iterator[str]:
    """Yield the result hosts, and the provider's own hosts even where the setting is narrower: links lead there."""
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
