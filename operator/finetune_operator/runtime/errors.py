"""What a call to the API server can end in.

ApiError
    Unauthorized (401)  Forbidden (403)  NotFound (404)  Gone (410)  Invalid (422)  TooManyRequests (429)  ServerError (5xx)
    Conflict (409: the object has changed)
        AlreadyExists (409 too, of a create)
    Unreachable (no answer: refused, reset, timed out, TLS; a write may or may not have happened)
        Unreadable (an answer that isn't the API server's: a proxy's page, a cut line)
    NotPermitted (nothing was sent: this process may not write now)
"""

import json
from collections.abc import Mapping
from typing import Any, Final

MESSAGE_CHARACTERS: Final = 1024


class ApiError(Exception):
    """A call that failed. `status` is the HTTP code, 0 without an answer; `reason` is the API server's CamelCase word."""

    def __init__(self, message: str, *, status: int = 0, reason: str = "", retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        return f"{self.status or 'no answer'} {self.reason or type(self).__name__}: {self.message}"


class Unauthorized(ApiError):
    """The credentials are wrong or have expired."""


class Forbidden(ApiError):
    """RBAC, or an admission rule, says no; or the namespace is being deleted."""


class NotFound(ApiError):
    """No such object, or no such resource (its CRD isn't installed)."""


class Conflict(ApiError):
    """The object isn't the one that was read: its resourceVersion or uid differs."""


class AlreadyExists(Conflict):
    """A create of a name that is taken."""


class Gone(ApiError):
    """The resourceVersion or the continue token is too old: list again."""


class Invalid(ApiError):
    """The API server refuses the object's content."""


class TooManyRequests(ApiError):
    """The API server asks for patience; see `retry_after_seconds`."""


class ServerError(ApiError):
    """The API server, etcd or an admission webhook failed."""


class Unreachable(ApiError):
    """No answer. A write that ends so may have happened."""


class Unreadable(Unreachable):
    """Something answered that doesn't speak the Kubernetes API."""


class NotPermitted(ApiError):
    """The write wasn't sent, for this process doesn't (or no longer) hold the lease."""


BY_STATUS: Final[dict[int, type[ApiError]]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
    429: TooManyRequests,
}


def api_error(code: int, body: bytes, headers: Mapping[str, str], request: str) -> ApiError:
    """The error that an answer with `code` and `body` means; `request` says which call it was."""
    try:
        status = json.loads(body)
    except ValueError:
        status = None
    if not isinstance(status, dict):
        status = {"message": body[:200].decode(errors="replace")}
    return error_of_status(status, code, request, header=headers.get("Retry-After"))


def error_of_status(status: Mapping[str, Any], code: int, request: str, *, header: str | None = None) -> ApiError:
    """The error in a `Status` object, as in a body or in a watch's ERROR event."""
    reason = str(status.get("reason") or "")
    details = status.get("details")
    after = details.get("retryAfterSeconds") if isinstance(details, dict) else None
    kind = BY_STATUS.get(code, ServerError if code >= 500 else ApiError)
    if reason == "AlreadyExists":
        kind = AlreadyExists
    message = f"{str(status.get('message') or '')[:MESSAGE_CHARACTERS]} ({request})"
    return kind(message, status=code, reason=reason, retry_after_seconds=_seconds(after) or _seconds(header))


def _seconds(value: object) -> float | None:
    """Retry-After in seconds; its other form, a date, is not used by API servers."""
    try:
        seconds = float(str(value))
    except ValueError:
        return None
    return seconds if 0 < seconds < 3600 else None
