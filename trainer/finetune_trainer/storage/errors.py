"""What went wrong in storage, as the errors of `finetune_api.errors`: pure, no I/O.

In: a server's error code or an OSError, and what was being done. Out: InvalidStorage when the settings must change, StorageFailed when
storage gave up in the middle. Every message names the URL, the field to change and the remedy; no message holds a key.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from finetune_api.errors import FineTuneError, InvalidStorage, StorageFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageFields:
    """Names of the fields that the settings came from."""

    storage: str = "spec.checkpoints.storage"
    endpoint: str = "spec.checkpoints.endpoint"
    region: str = "spec.checkpoints.region"
    credentials: str = "spec.checkpoints.credentialsSecret"
    ca_bundle: str = "spec.checkpoints.caBundle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where storage is: `url` is what the user wrote; `bucket` and `endpoint` are empty for a directory. `server`: who answers."""

    url: str
    bucket: str = ""
    endpoint: str = ""
    server: str = "S3 server"
    fields: StorageFields = StorageFields()


class _Failed(StorageFailed):
    """A StorageFailed that code tells apart and a user does not."""

    @property
    def reason(self) -> str:
        return StorageFailed.__name__


class MissingObject(_Failed):
    """An object that was asked for does not exist."""


class Unreachable(_Failed):
    """Nobody answers at the endpoint, or not in time. At the first contact the settings are to blame: see `first_contact`."""

    def __init__(self, message: str, *, why: str = "") -> None:
        super().__init__(message)
        self.why = why


class UploadGone(_Failed):
    """A multipart upload that was under way is no longer known to the server."""


class DamagedCheckpoint(_Failed):
    """A checkpoint whose objects are missing, cut off or altered: it does not exist, and an older one is taken."""


# Codes of Amazon S3 (API reference, "Error responses", 2026-10), MinIO ("XMinio...") and Ceph ("QuotaExceeded"); other services' codes are
# translated to these where they say the same.
_REFUSED_KEYS = frozenset({
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired",
    "InvalidClientTokenId", "InvalidSecurity", "NotSignedUp", "RequestExpired",
    "AuthenticationFailed", "InvalidAuthenticationInfo", "NoAuthenticationInformation",  # Azure
})  # fmt: skip
_FULL = frozenset({
    "QuotaExceeded", "InsufficientStorage", "InsufficientCapacity", "StorageFull", "ServiceQuotaExceeded", "TooMuchData",
    "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "507",
})  # fmt: skip
# Servers with words of their own for a key that they don't know, and a status that is no 403 (versitygw 1.8.0: 404 XAdminUserNotFound).
_OF_KEYS = re.compile(r"access ?key|UserNotFound|NoSuchUser|failed to authenticate", re.IGNORECASE)
_WRONG_REGION = frozenset({
    "PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301", "307",
})  # fmt: skip


def refuses_keys(*, code: str, status: int, message: str = "") -> bool:
    """Whether an answer says that the server doesn't know the keys, so that reading them again may help.

    >>> refuses_keys(code="XAdminUserNotFound", status=404, message="No user exists with the provided access key ID.")
    True
    """
    return code in _REFUSED_KEYS or status == 401 or (400 <= status < 500 and bool(_OF_KEYS.search(f"{code} {message}")))


def server_error(place: Place, doing: str, *, code: str, status: int, message: str = "") -> FineTuneError:
    """The error for an answer of the server. `doing` is a phrase such as `writing checkpoints/x`.

    >>> place = Place(url="s3://bucket/run", bucket="bucket", endpoint="http://127.0.0.1:9000")
    >>> print(server_error(place, "listing", code="NoSuchBucket", status=404))
    spec.checkpoints.storage=s3://bucket/run: there is no bucket 'bucket' at http://127.0.0.1:9000; create it or correct the name
    """
    fields = place.fields
    where = f"{fields.storage}={place.url}"
    words = _words(code, message)
    if (remedy := _endpoint_path(place)) and _is_of_another_bucket(doing, code, status):
        return InvalidStorage(f"{where}: {doing} failed at {place.endpoint} ({words}); {remedy}")
    if code == "NoSuchBucket":
        word = "container" if place.url.startswith("az:") else "bucket"
        return InvalidStorage(f"{where}: there is no {word} {place.bucket!r} at {place.endpoint}; create it or correct the name")
    if code == "InvalidBucketName":
        return InvalidStorage(f"{where}: {place.endpoint} takes {place.bucket!r} for no bucket's name ({words}); correct {fields.storage}")
    if refuses_keys(code=code, status=status, message=message):
        return InvalidStorage(f"{where}: {place.endpoint} refuses the access key ({words}); correct {fields.credentials}")
    if code == "RequestTimeTooSkewed":
        return InvalidStorage(f"{where}: this machine's clock differs from that of {place.endpoint}; set the clock")
    if code in _WRONG_REGION:
        told = f"{where}: bucket {place.bucket!r} is in another region ({words})"
        return InvalidStorage(f"{told}; set {fields.region} to the bucket's region")
    if code in _FULL or status == 507:
        return full(place, doing, code)
    if code in {"400", "404", "405"}:  # S3 has words for its errors
        return another_server(place)
    if code == "NoSuchKey":
        return MissingObject(f"{where}: {doing} failed: there is no such object; it was deleted by someone else, or never written")
    if code == "NoSuchUpload":
        return UploadGone(f"{where}: {doing} failed: the upload was ended by someone else; is another run writing there?")
    if status == 403:
        return InvalidStorage(
            f"{where}: these keys may not do this: {doing} ({words}); allow listing the bucket and reading, writing and deleting objects "
            f"under the prefix, or correct {fields.credentials}"
        )
    if status == 501:
        return InvalidStorage(f"{where}: {place.endpoint} does not offer what is needed for {doing} ({words}); use another {place.server}")
    return StorageFailed(f"{where}: {doing} failed: {status} {words}; what was saved before is intact; run the same command again")


def _words(code: str, message: str) -> str:
    """What the server said, as it said it."""
    said = " ".join(message.split()).rstrip(".")[:200]
    return f"{code}: {said}" if said and said != code else code


def _endpoint_path(place: Place) -> str | None:
    """The remedy for an endpoint with a path, which a server takes for a bucket, or None. A few servers do live below a path."""
    parts = urlsplit(place.endpoint)
    path = parts.path.strip("/")
    if place.url.startswith("az:") or not parts.netloc or not path:
        return None
    return f"{place.fields.endpoint} has the path /{path}, which the server takes for a bucket: write {parts.scheme}://{parts.netloc}"


def _is_of_another_bucket(doing: str, code: str, status: int) -> bool:
    """Whether an answer may come of an endpoint's path, with which bucket and key are others than those that were meant."""
    if code == "NoSuchKey":
        return doing.startswith("listing")
    return code in {"NoSuchBucket", "InvalidBucketName", "MethodNotAllowed", "InvalidURI"} or status in {400, 404, 405}


# What OpenSSL says of an answer that is no TLS, and last what rustls says.
_NO_TLS = (
    "WRONG_VERSION_NUMBER",
    "UNKNOWN_PROTOCOL",
    "HTTP_REQUEST",
    "RECORD_LAYER_FAILURE",
    "PACKET_LENGTH_TOO_LONG",
    "InvalidContentType",
)
_WHY_UNTRUSTED = re.compile(r"(?:certificate verify failed: |InvalidCertificate\(\s*)([^(),]+)")


def tls_error(place: Place, said: str) -> InvalidStorage:
    """The error for TLS that didn't come about: none is spoken there, the certificate is not trusted, or what OpenSSL says."""
    where = f"{place.fields.storage}={place.url}"
    if any(word in said for word in _NO_TLS):
        return _no_tls(place)
    if why := _WHY_UNTRUSTED.search(said):
        told = f"{where}: {place.endpoint} shows a certificate that is not trusted ({why[1].strip()})"
        return InvalidStorage(f"{told}; put its CA into {place.fields.ca_bundle}, as ca.crt, or correct {place.fields.endpoint}")
    return InvalidStorage(f"{where}: TLS with {place.endpoint} fails ({said[:200]}); correct {place.fields.endpoint}")


def in_the_way(place: Place, doing: str, *, folder: str, said: str) -> InvalidStorage:
    """The error for a server that keeps objects as files: what one key names as an object is a folder of other keys."""
    return InvalidStorage(
        f"{place.fields.storage}={place.url}: {doing} failed ({said}): {place.endpoint} can't keep an object {folder!r} beside objects "
        f"below {folder}/; delete it, or name another prefix"
    )


def _no_tls(place: Place) -> InvalidStorage:
    """The error for `https://` at a server of plain HTTP."""
    return InvalidStorage(
        f"{place.fields.storage}={place.url}: the server at {place.endpoint} doesn't speak TLS; "
        f"write {place.endpoint.replace('https://', 'http://', 1)} as {place.fields.endpoint}, or turn TLS on there"
    )


def full(place: Place, doing: str, code: str) -> StorageFailed:
    """The error for storage without room."""
    return StorageFailed(
        f"{place.fields.storage}={place.url}: no room ({code}) while {doing}; what was saved before is intact. "
        "Free space, raise the quota or lower spec.checkpoints.keep, then run the same command again"
    )


def replaced(place: Place, key: str) -> StorageFailed:
    """The error for an object that is no longer the one that was listed."""
    return StorageFailed(f"{place.fields.storage}={place.url}: {key} was replaced while it was read; run the same command again")


def another_server(place: Place) -> InvalidStorage:
    """The error for an endpoint that something else answers at."""
    remedy = _endpoint_path(place) or f"correct {place.fields.endpoint}"
    if not _endpoint_path(place) and place.endpoint.startswith("http://"):
        remedy += ", to https:// if TLS is spoken there"
    return InvalidStorage(f"{place.fields.storage}={place.url}: {place.endpoint} does not answer as an {place.server}; {remedy}")


def unreachable(place: Place, doing: str, why: str) -> Unreachable:
    """The error for an endpoint that does not answer."""
    return Unreachable(
        f"{place.fields.storage}={place.url}: {doing} failed: no answer from {place.endpoint} ({why}); "
        f"is the server up and {place.fields.endpoint} right? What was saved before is intact; run the same command again",
        why=why,
    )


def first_contact(place: Place, error: Unreachable) -> InvalidStorage:
    """The error for an endpoint that never answered: a setting is wrong."""
    return InvalidStorage(
        f"{place.fields.storage}={place.url}: can't reach {place.endpoint}; "
        f"correct {place.fields.endpoint}, or start the server there ({error.why})"
    )


@contextmanager
def answered_before() -> Iterator[None]:
    """Around a use of servers that have answered already: one that doesn't now is away, and no setting is to blame."""
    try:
        yield
    except InvalidStorage as error:
        if isinstance(error.__cause__, Unreachable):
            raise Unreachable(str(error.__cause__), why=error.__cause__.why) from error
        raise


_NO_ROOM = {errno.ENOSPC: "disk full", errno.EDQUOT: "disk quota used up", errno.EFBIG: "file size limit reached"}
# Of the system itself, where a library in Rust keeps its number to itself; of `datasets` 5.2, which counts before it writes.
_FULL_DISK = ("No space left on device", "Not enough disk space")
_SETTINGS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP})


def no_room(error: BaseException) -> str | None:
    """What a disk said that takes no more, if that is what is behind an error; None otherwise. Libraries say it in words of their own."""
    cause: BaseException | None = error
    seen = set()  # a chain may lead back to where it began
    while cause is not None and id(cause) not in seen:
        if (isinstance(cause, OSError) and cause.errno in _NO_ROOM) or any(words in str(cause) for words in _FULL_DISK):
            return next(iter(str(cause).splitlines()), "disk full")
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return None


def directory_error(place: Place, doing: str, error: OSError) -> FineTuneError:
    """The error for a failed operation on a file.

    >>> print(directory_error(Place(url="/data"), "writing a", OSError(errno.EROFS, "Read-only file system")))
    spec.checkpoints.storage=/data: writing a failed: Read-only file system; name a directory that this user may write
    """
    if error.errno in _NO_ROOM:
        return full(place, doing, _NO_ROOM[error.errno])
    why = f"{place.fields.storage}={place.url}: {doing} failed: {error.strerror or error}"
    if isinstance(error, FileNotFoundError):
        return MissingObject(f"{why}; it was deleted by someone else, or never written")
    if error.errno in _SETTINGS:
        return InvalidStorage(f"{why}; name a directory that this user may write")
    return StorageFailed(f"{why}; what was saved before is intact; run the same command again")
