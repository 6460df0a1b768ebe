"""The envelope of the REST routes: HTTP 400 for nearly everything, the real status a string in the body."""

from __future__ import annotations

from aiohttp import web


class Refused(Exception):
    """An answer that ends the request; `early` where the real server answers before it reads a body."""

    def __init__(self, status: str, error: str, code: str, message: str, *, early: bool = False) -> None:
        super().__init__(message)
        self.status, self.error, self.code, self.message, self.early = status, error, code, message, early

    def response(self) -> web.StreamResponse:
        body = {
            "statusCode": self.status,
            "error": self.error,
            "message": self.message,
            "code": self.code,
        }
        http = 500 if self.status == "500" else 429 if self.status == "429" else 400
        return web.json_response(body, status=http)


class TusRefused(Refused):
    """The same for the resumable routes: the real HTTP status and plain text."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(str(status), "", "", message)

    def response(self) -> web.StreamResponse:
        headers = {"Tus-Resumable": "1.0.0"}
        return web.Response(status=int(self.status), text=self.message, headers=headers)


def denied(message: str, *, early: bool = False) -> Refused:
    return Refused("403", "Unauthorized", "AccessDenied", message, early=early)


def row_security(*, early: bool = True) -> Refused:
    return denied("new row violates row-level security policy", early=early)


def fault(status: int) -> Refused:
    """What the server says where a project is restricted (402) or paused (540), its database slow (544), else 500."""
    match status:
        case 402:
            return Refused("402", "ExceedStorageSizeQuota", "exceed_storage_size_quota", "Exceeded storage size quota")
        case 540:
            return Refused("540", "ProjectPaused", "ProjectPaused", "Project is paused")
        case 544:
            return Refused("544", "DatabaseTimeout", "DatabaseTimeout", "The connection to the database timed out")
    return Refused("500", "Internal", "InternalError", "Internal Server Error")


def no_bucket() -> Refused:
    return Refused("404", "Bucket not found", "NoSuchBucket", "Bucket not found")


def no_object() -> Refused:
    return Refused("404", "not_found", "NoSuchKey", "Object not found")


def duplicate() -> Refused:
    return Refused("409", "Duplicate", "KeyAlreadyExists", "The resource already exists", early=True)


def too_large() -> Refused:
    return Refused(
        "413",
        "Payload too large",
        "EntityTooLarge",
        "The object exceeded the maximum allowed size",
    )


def wrong_type(mime: str) -> Refused:
    return Refused("415", "invalid_mime_type", "InvalidMimeType", f"mime type {mime} is not supported")


def bad_key(key: str) -> Refused:
    return Refused("400", "InvalidKey", "InvalidKey", f"Invalid key: {key}", early=True)


def page(status: int) -> web.Response:
    """What a gateway in front of the server says."""
    text = f"<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>"
    return web.Response(status=status, text=text, content_type="text/html")
