"""The paths of results, in the forms that KIE uses for each vendor of models. Pure."""

from __future__ import annotations

import hashlib
from uuid import UUID

from reconciler.simulator.media.files import MediaSpec


def result_path(task: str, model: str, n: int, second: int, media: MediaSpec) -> str:
    """Return the path of result `n` of a task that ended at this Unix second."""
    if media.path is not None:
        return media.path
    digest = hashlib.blake2b(f"{task}/{n}/path".encode(), digest_size=32).hexdigest()
    ext = f".{media.ext}" if media.ext else ""
    vendor = model.partition("/")[0].lower()
    number = int(digest[:8], 16) % 10000
    if vendor.startswith("kling"):
        return f"/k/{task}_{n + 1}_{second}_{number:04}{ext}"
    if vendor.startswith("nano-banana"):
        return f"/na2/{task}{n}{number:04}{ext}"
    if vendor.startswith("gpt"):
        return f"/images/chatgpt/file_{digest[:32]}{ext}"
    if vendor.startswith("grok"):
        if media.kind == "image":
            return f"/r/{UUID(digest[:32])}{ext}"
        return f"/g/users/{UUID(digest[:32])}/generated/{UUID(digest[32:])}/generated_{media.kind}{ext}"
    if vendor.startswith(("wan", "happyhorse", "bytedance", "veo", "suno")):
        folder = "seedance" if vendor == "bytedance" else model.replace("/", "-").lower()
        return f"/{folder}/{second}{number % 1000:03}-{digest[:11]}{ext}"
    return f"/r/{task}_{second}_{digest[:8]}{ext}"
