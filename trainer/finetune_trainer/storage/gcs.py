"""Objects in a bucket of Google Cloud Storage: the only file that imports google-cloud-storage.

By its JSON interface, for what that answers to `ifGenerationMatch=0` has one winner of many writers (docs/decisions/0014). A large object
is one resumable upload, which appears whole or not at all; what a killed writer left of it, the service forgets after a week.
"""

import contextlib
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from finetune_api.errors import InvalidStorage, StorageFailed
from finetune_trainer.files.atomic import Bytes, atomically
from finetune_trainer.storage.connection import Connection, Settings, is_loopback
from finetune_trainer.storage.directory import Listing, Versions
from finetune_trainer.storage.errors import MissingObject, refuses_keys, replaced, server_error, tls_error, unreachable
from finetune_trainer.storage.streams import PART_BYTES, in_order

# What one request of a resumable upload carries: a multiple of 256 KiB.
_UPLOAD_BYTES = 2 * PART_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class GcsCredentials:
    """The JSON key of a service account. Never printed."""

    service_account_key: str = field(repr=False)


class _Connection(Connection[GcsCredentials, Any]):
    """A google.cloud.storage.Client."""

    def _connect(self, keys: GcsCredentials | None) -> Any:
        from google.auth.transport.requests import AuthorizedSession
        from google.cloud.storage import Client
        from requests.adapters import HTTPAdapter

        credentials = self._credentials(keys)
        session = AuthorizedSession(credentials)
        session.mount("https://", HTTPAdapter(pool_maxsize=4 * self.limits.parallel))
        session.mount("http://", HTTPAdapter(pool_maxsize=4 * self.limits.parallel))
        if self.settings.ca_bundle is not None:
            session.verify = str(self.settings.ca_bundle)
        session.trust_env = not is_loopback(self.settings.endpoint)
        options = {"api_endpoint": self.settings.endpoint} if self.settings.endpoint else None
        # No project is asked for: buckets and objects are found without one.
        return Client(project="none", credentials=credentials, client_options=options, _http=session)

    def _credentials(self, keys: GcsCredentials | None) -> Any:
        import google.auth
        from google.auth.credentials import AnonymousCredentials
        from google.oauth2.service_account import Credentials

        scopes = ["https://www.googleapis.com/auth/devstorage.read_write"]
        if keys is not None:
            try:
                return Credentials.from_service_account_info(json.loads(keys.service_account_key), scopes=scopes)
            except (ValueError, KeyError, TypeError, AttributeError) as error:  # no JSON, or not of a service account
                told = f"{self._where}: the service account's key can't be used ({type(error).__name__})"
                remedy = f"put the JSON file that Google gave out into {self.place.fields.credentials}, as GOOGLE_SERVICE_ACCOUNT_KEY"
                raise InvalidStorage(f"{told}; {remedy}") from None
        if (self.settings.endpoint or "").startswith("http://"):
            return AnonymousCredentials()  # an emulator: no token of Google's goes out in the clear
        return google.auth.default(scopes=scopes)[0]

    @contextlib.contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        from google.api_core.exceptions import GoogleAPICallError, RetryError
        from google.auth.exceptions import GoogleAuthError
        from google.cloud.exceptions import GoogleCloudError
        from google.resumable_media import DataCorruption, InvalidResponse
        from requests import RequestException

        try:
            yield
        except (GoogleAPICallError, GoogleCloudError, InvalidResponse) as error:
            raise self._answered(doing, error) from error
        except RetryError as error:
            raise unreachable(self.place, doing, type(error.cause or error).__name__) from error
        except GoogleAuthError as error:
            raise self._not_authenticated(error) from error
        except (RequestException, ConnectionError, TimeoutError) as error:
            if "SSL" in type(error).__name__:
                raise tls_error(self.place, str(error)) from error
            raise unreachable(self.place, doing, type(error).__name__) from error
        except DataCorruption as error:
            raise StorageFailed(f"{self._where}: {doing} failed: {error}; run the same command again") from error

    @property
    def _where(self) -> str:
        return f"{self.place.fields.storage}={self.place.url}"

    def _answered(self, doing: str, error: Any) -> Exception:
        status, code, message = _answer(error)
        if status == 404:
            # To a write or a listing, which need no object, what is missing is the bucket.
            code = "NoSuchKey" if doing.startswith(("reading", "looking", "deleting")) else "NoSuchBucket"
        return server_error(self.place, doing, code=code, status=status, message=message)

    def _not_authenticated(self, error: Exception) -> Exception:
        from google.auth.exceptions import DefaultCredentialsError, TransportError

        if isinstance(error, TransportError):
            return unreachable(self.place, "asking for a token", type(error).__name__)
        credentials = self.place.fields.credentials
        if isinstance(error, DefaultCredentialsError):
            names = " or ".join(dict.fromkeys([credentials, "GOOGLE_APPLICATION_CREDENTIALS"]))
            remedy = f"set {names}, or give the pod an identity that Google knows"
            return InvalidStorage(f"{self._where}: no credentials; {remedy}")
        return InvalidStorage(f"{self._where}: Google refuses the credentials ({str(error)[:200]}); correct {credentials}")

    def _is_refusal(self, error: BaseException | None) -> bool:
        from google.auth.exceptions import RefreshError

        status, code, message = _answer(error)
        return isinstance(error, RefreshError) or status == 403 or refuses_keys(code=code, status=status, message=message)


def _answer(error: Any) -> tuple[int, str, str]:
    """Status, reason and message of an error of the library; (0, "", "") for another."""
    response = getattr(error, "response", None)
    status = int(getattr(error, "code", None) or getattr(response, "status_code", 0) or 0)
    details = getattr(error, "errors", None) or [{}]
    message = str(details[0].get("message") or getattr(error, "message", "") or "")
    return status, str(details[0].get("reason") or status or ""), message


class GcsStorage:
    """A Storage under a prefix of a bucket. Usable from several threads, not across a fork."""

    def __init__(self, settings: Settings[GcsCredentials], prefix: str) -> None:
        self._connection = _Connection(settings)
        self._prefix = f"{prefix}/" if prefix else ""
        self.place = settings.place

    @property
    def url(self) -> str:
        return self.place.url

    def put(self, key: str, data: Bytes) -> None:
        self._connection.call(f"writing {key}", partial(self._upload, key, bytes(data)))

    def put_file(self, key: str, path: Path) -> None:
        with path.open("rb") as source:
            self.put_stream(key, iter(lambda: source.read(PART_BYTES), b""))

    def put_stream(self, key: str, blocks: Iterable[Bytes]) -> int:
        source = _Blocks(blocks)
        first = source.read(_UPLOAD_BYTES)
        if len(first) < _UPLOAD_BYTES:
            self.put(key, first)
            return len(first)
        source = _Blocks(itertools.chain([first], source.rest()))

        def upload(client: Any) -> None:
            if source.tell():
                # Keys that were refused in the middle: the blocks are gone. The next save begins with the new ones.
                raise StorageFailed(f"{self.place.fields.storage}={self.url}: writing {key} was cut off; run the same command again")
            from google.resumable_media import DataCorruption

            blob = self._blob(client, key, chunk_size=_UPLOAD_BYTES)
            try:
                blob.upload_from_file(source, timeout=self._timeout, retry=self._retry, checksum="crc32c")
            except DataCorruption:  # a request that was repeated, and taken twice (fake-gcs-server 1.56)
                with contextlib.suppress(Exception):
                    blob.delete(timeout=self._timeout)
                raise

        self._connection.call(f"writing {key}", upload)
        return source.tell()

    def put_if_absent(self, key: str, data: Bytes) -> bool:
        def create(client: Any) -> bool:
            from google.api_core.exceptions import PreconditionFailed

            try:
                self._upload(key, bytes(data), client, if_generation_match=0)
            except PreconditionFailed:
                return False
            return True

        # A request whose answer was lost is repeated, and then refused by its own object.
        return self._connection.call(f"creating {key}", create) or self.get(key) == bytes(data)

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        if stop is not None and stop <= start:
            return b""
        return self._connection.call(f"reading {key}", partial(self._read, key, start, stop))

    def get_file(self, key: str, path: Path, version: str | None = None) -> None:
        blob = self._connection.call(f"reading {key}", partial(self._described, key))
        if version and _version(blob) != version:
            raise replaced(self.place, key)
        starts = range(0, blob.size, PART_BYTES)
        with atomically(path) as draft, draft.open("xb") as file:
            for block in in_order(partial(self._read_of, key, blob.generation, blob.size), starts, self._connection.limits.parallel):
                file.write(block)

    def exists(self, key: str) -> bool:
        try:
            self._connection.call(f"looking for {key}", partial(self._described, key))
        except MissingObject:
            return False
        return True

    def list(self, prefix: str = "") -> Listing:
        return [(key, size) for key, size, _ in self.versions(prefix)]

    def versions(self, prefix: str = "") -> Versions:
        def pages(client: Any) -> Versions:
            found = client.list_blobs(self.place.bucket, prefix=self._prefix + prefix, timeout=self._timeout, retry=self._retry)
            return [(blob.name[len(self._prefix) :], int(blob.size), _version(blob)) for blob in found]

        return sorted(self._connection.call(f"listing {prefix or 'everything'}", pages))

    def delete(self, keys: Iterable[str]) -> None:
        def delete(key: str) -> None:
            with contextlib.suppress(MissingObject):
                self._connection.call(
                    f"deleting {key}", lambda client: self._blob(client, key).delete(timeout=self._timeout, retry=self._retry)
                )

        for _ in in_order(delete, sorted(set(keys)), 2 * self._connection.limits.parallel):
            pass

    def discard_incomplete(self, ours: Callable[[str], bool]) -> None:
        """Nothing: resumable uploads that were begun can't be listed, cost nothing and end by themselves."""

    @property
    def _timeout(self) -> tuple[float, float]:
        return self._connection.limits.connect_seconds, self._connection.limits.read_seconds

    @property
    def _retry(self) -> Any:
        """The library's own notion of what is worth another try, within the time that the limits allow."""
        from google.cloud.storage.retry import DEFAULT_RETRY

        return DEFAULT_RETRY.with_delay(initial=0.5, maximum=20.0).with_timeout(10.0 * self._connection.limits.attempts)

    def _blob(self, client: Any, key: str, **settings: Any) -> Any:
        return client.bucket(self.place.bucket).blob(self._prefix + key, **settings)

    def _upload(self, key: str, data: bytes, client: Any, **conditions: int) -> None:
        self._blob(client, key).upload_from_string(data, timeout=self._timeout, retry=self._retry, checksum=None, **conditions)

    def _described(self, key: str, client: Any) -> Any:
        blob = self._blob(client, key)
        blob.reload(timeout=self._timeout, retry=self._retry)
        return blob

    def _read_of(self, key: str, generation: int, size: int, start: int) -> bytes:
        """A part of one generation, so that an object that is replaced meanwhile gives no mixture."""
        stop = min(start + PART_BYTES, size)
        try:
            data = self._connection.call(f"reading {key}", partial(self._read, key, start, stop, generation=generation))
        except MissingObject as error:
            raise replaced(self.place, key) from error
        if len(data) != stop - start:
            raise StorageFailed(f"{self.place.fields.storage}={self.url}: {key} was cut off while reading; run the same command again")
        return data

    def _read(self, key: str, start: int, stop: int | None, client: Any, generation: int | None = None) -> bytes:
        from google.api_core.exceptions import RequestRangeNotSatisfiable

        # Not `start=0` for a whole object: an empty one has no first byte. As it is stored: a compressed file stays one.
        bounds: dict[str, int] = ({"start": start} if start or stop is not None else {}) | ({"end": stop - 1} if stop is not None else {})
        blob = self._blob(client, key, generation=generation)
        try:
            found = blob.download_as_bytes(raw_download=True, timeout=self._timeout, retry=self._retry, checksum=None, **bounds)
        except RequestRangeNotSatisfiable:
            return b""
        return bytes(found)


def _version(blob: Any) -> str:
    """The content's MD5, or the generation of what was put together from several objects and has none."""
    return str(blob.md5_hash or blob.generation)


class _Blocks(io.RawIOBase):
    """Blocks as the file that the library reads from: it asks where it is, and never goes back within one upload."""

    def __init__(self, blocks: Iterable[Bytes]) -> None:
        self._blocks, self._waiting, self._read = iter(blocks), bytearray(), 0

    def tell(self) -> int:
        return self._read

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._waiting) < size:
            if (block := next(self._blocks, None)) is None:
                break
            self._waiting += block
        taken = bytes(self._waiting[: size if size >= 0 else None])
        del self._waiting[: len(taken)]
        self._read += len(taken)
        return taken

    def rest(self) -> Iterator[Bytes]:
        """What has not been read."""
        return itertools.chain([bytes(self._waiting)], self._blocks)
