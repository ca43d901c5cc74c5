"""Objects in a container of Azure Blob Storage: the only file that imports obstore.

A large object's blocks are committed by one request: it appears whole or not at all, and what a killed writer left of it, the service
forgets after a week. `If-None-Match: *` has one winner of many writers (docs/decisions/0014).
"""

import contextlib
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from finetune_api.errors import FineTuneError, InvalidStorage, StorageFailed
from finetune_trainer.files.atomic import Bytes, atomically
from finetune_trainer.storage.connection import Connection, Settings
from finetune_trainer.storage.directory import Listing, Versions
from finetune_trainer.storage.errors import MissingObject, Unreachable, refuses_keys, replaced, server_error, tls_error, unreachable
from finetune_trainer.storage.streams import PART_BYTES, in_order

if TYPE_CHECKING:
    from obstore.store import AzureStore

ACCOUNT_REMEDY = "https://ACCOUNT.blob.core.windows.net"


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureCredentials:
    """A storage account, with its key, a shared access signature, or neither (the pod's identity). Never printed."""

    account: str | None = field(default=None, repr=False)
    key: str | None = field(default=None, repr=False)
    sas_token: str | None = field(default=None, repr=False)


class _Connection(Connection[AzureCredentials, "AzureStore"]):
    """An AzureStore of obstore."""

    def _connect(self, keys: AzureCredentials | None) -> "AzureStore":
        from obstore.store import AzureStore

        endpoint, limits = self.settings.endpoint, self.limits
        account = (keys.account if keys else None) or account_of(endpoint)
        config: Any = {"account_name": account} if account else {}
        config |= {"endpoint": endpoint.rstrip("/")} if endpoint else {}
        config |= {"account_key": keys.key} if keys and keys.key else {}
        config |= {"sas_key": keys.sas_token.removeprefix("?")} if keys and keys.sas_token else {}
        options: Any = {
            "allow_http": (endpoint or "").startswith("http://"),
            "connect_timeout": timedelta(seconds=limits.connect_seconds),
            "timeout": timedelta(seconds=limits.read_seconds),
        }
        if self.settings.ca_bundle is not None:
            options["root_certificate"] = self.settings.ca_bundle.read_bytes()
        retries: Any = {
            "max_retries": limits.attempts - 1,
            "retry_timeout": timedelta(seconds=10.0 * limits.attempts),
            "backoff": {"init_backoff": timedelta(seconds=0.25), "max_backoff": timedelta(seconds=20), "base": 2},
        }
        return AzureStore(self.place.bucket, config=config, client_options=options, retry_config=retries)

    @contextlib.contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        # FileNotFoundError and friends of obstore are BaseErrors too; what the caller's own blocks raise is not.
        except (BaseError, FileNotFoundError) as error:
            raise self._translated(doing, error) from error

    def _translated(self, doing: str, error: Exception) -> FineTuneError:
        said, place = str(error), self.place
        status, code, message = _answer(error)
        where = f"{place.fields.storage}={place.url}"
        if not status:
            if "must be specified" in said and "ccount" in said:
                told = f"{where}: no storage account; put AZURE_STORAGE_ACCOUNT_NAME into {place.fields.credentials}"
                return InvalidStorage(f"{told}, or set {place.fields.endpoint}: {ACCOUNT_REMEDY}")
            if "InvalidCertificate" in said or "InvalidContentType" in said:
                return tls_error(place, said)
            if isinstance(error, FileNotFoundError):
                return server_error(place, doing, code="NoSuchKey", status=404)
            if "rror performing" in said or "rror sending request" in said:
                why = _NO_ANSWER.search(said)
                return unreachable(place, doing, why[0] if why else _first_line(said))
            return InvalidStorage(
                f"{where}: {doing} failed: {_first_line(said)}; correct {place.fields.storage} or {place.fields.credentials}"
            )
        if code == "ContainerNotFound":
            code = "NoSuchBucket"
        elif status == 404 and (not code or code.startswith(("Blob", "404"))):
            code = "NoSuchKey"
        return server_error(place, doing, code=code or str(status), status=status, message=message)

    def _is_refusal(self, error: BaseException | None) -> bool:
        status, code, message = _answer(error)
        return status == 403 or refuses_keys(code=code, status=status, message=message)


def account_of(endpoint: str | None) -> str | None:
    """The storage account that an endpoint names: by its host, or by its path where the host is a number (Azurite).

    >>> account_of("https://pantry.blob.core.windows.net"), account_of("http://127.0.0.1:10000/devstoreaccount1")
    ('pantry', 'devstoreaccount1')
    """
    parts = urlsplit(endpoint or "")
    first, _, rest = (parts.hostname or "").partition(".")
    if rest.startswith("blob."):
        return first
    return parts.path.strip("/").partition("/")[0] or None


_STATUS = re.compile(r"status code: (\d{3})|\(code: (\d{3})\)")
_NO_ANSWER = re.compile(r"ConnectionRefused|ConnectionReset|dns error|TimedOut|IncompleteMessage")
_CODE = re.compile(r"<Code>([^<]+)</Code>")
_MESSAGE = re.compile(r"<Message>([^<\n]+)")


def _answer(error: BaseException | None) -> tuple[int, str, str]:
    """Status, code and message of the server's answer, as obstore quotes it; (0, "", "") for an error without an answer."""
    said = str(error).partition("Debug source")[0]
    status, code, message = _STATUS.search(said), _CODE.search(said), _MESSAGE.search(said)
    return int(status[1] or status[2]) if status else 0, code[1] if code else "", message[1] if message else ""


def _first_line(said: str) -> str:
    return said.partition("\n")[0][:200]


class AzureStorage:
    """A Storage under a prefix of a container. Usable from several threads, not across a fork."""

    def __init__(self, settings: Settings[AzureCredentials], prefix: str) -> None:
        self._connection = _Connection(settings)
        self._prefix = f"{prefix}/" if prefix else ""
        self.place = settings.place

    @property
    def url(self) -> str:
        return self.place.url

    def put(self, key: str, data: Bytes) -> None:
        import obstore

        body = bytes(data)
        self._connection.call(f"writing {key}", lambda store: obstore.put(store, self._prefix + key, body, use_multipart=False))

    def put_file(self, key: str, path: Path) -> None:
        with path.open("rb") as source:
            self.put_stream(key, iter(lambda: source.read(PART_BYTES), b""))

    def put_stream(self, key: str, blocks: Iterable[Bytes]) -> int:
        import obstore

        counted = _Counted(blocks)

        def upload(store: "AzureStore") -> None:
            if counted.begun:
                # Keys that were refused in the middle: the blocks are gone. The next save begins with the new ones.
                raise StorageFailed(f"{self.place.fields.storage}={self.url}: writing {key} was cut off; run the same command again")
            limits = self._connection.limits
            obstore.put(
                store, self._prefix + key, counted, use_multipart=True, chunk_size=PART_BYTES, max_concurrency=limits.parallel
            )  # fmt: skip

        self._connection.call(f"writing {key}", upload)
        return counted.size

    def put_if_absent(self, key: str, data: Bytes) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError

        body = bytes(data)

        def create(store: "AzureStore") -> bool:
            try:
                obstore.put(store, self._prefix + key, body, mode="create")
            except AlreadyExistsError:
                return False
            return True

        # A request whose answer was lost is repeated, and then refused by its own object.
        return self._connection.call(f"creating {key}", create) or self.get(key) == body

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        if stop is not None and stop <= start:
            return b""
        return self._connection.call(f"reading {key}", partial(self._read, key, start, stop))

    def get_file(self, key: str, path: Path, version: str | None = None) -> None:
        described = self._described(key)
        size, etag = described["size"], described["e_tag"] or ""
        if version and _version(etag) != version:
            raise replaced(self.place, key)
        with atomically(path) as draft, draft.open("xb") as file:
            starts = range(0, size, PART_BYTES)
            for block in in_order(partial(self._read_of, key, etag, size), starts, self._connection.limits.parallel):
                file.write(block)

    def exists(self, key: str) -> bool:
        try:
            self._described(key)
        except MissingObject:
            return False
        return True

    def list(self, prefix: str = "") -> Listing:
        return [(key, size) for key, size, _ in self.versions(prefix)]

    def versions(self, prefix: str = "") -> Versions:
        import obstore

        # obstore lists folders: the rest of the prefix is compared here.
        folder = f"{self._prefix}{prefix}".rpartition("/")[0]

        def pages(store: "AzureStore") -> Versions:
            found = (one for page in obstore.list(store, prefix=folder or None) for one in page)
            return [
                (one["path"][len(self._prefix) :], one["size"], _version(one["e_tag"] or ""))
                for one in found
                if one["path"].startswith(self._prefix + prefix)
            ]

        return sorted(self._connection.call(f"listing {prefix or 'everything'}", pages))

    def delete(self, keys: Iterable[str]) -> None:
        import obstore

        def delete(key: str) -> None:
            for attempts_left in reversed(range(self._connection.limits.attempts)):
                try:
                    with contextlib.suppress(MissingObject):
                        self._connection.call(f"deleting {key}", lambda store: obstore.delete(store, self._prefix + key))
                    return
                except Unreachable:  # obstore deletes by a POST, which it doesn't repeat by itself
                    if not attempts_left:
                        raise
                    time.sleep(random.uniform(0.1, 1.0))

        for _ in in_order(delete, sorted(set(keys)), 2 * self._connection.limits.parallel):
            pass

    def discard_incomplete(self, ours: Callable[[str], bool]) -> None:
        """Nothing: blocks that were never committed are no object, and the service forgets them after a week."""

    def _described(self, key: str) -> Any:
        import obstore

        return self._connection.call(f"reading {key}", lambda store: obstore.head(store, self._prefix + key))

    def _read_of(self, key: str, etag: str, size: int, start: int) -> bytes:
        """A part of one version, so that an object that is replaced meanwhile gives no mixture."""
        from obstore.exceptions import PreconditionError

        stop = min(start + PART_BYTES, size)
        try:
            data = self._connection.call(f"reading {key}", partial(self._read, key, start, stop, etag=etag))
        except (StorageFailed, InvalidStorage) as error:
            if isinstance(error.__cause__, PreconditionError):
                raise replaced(self.place, key) from error
            raise
        if len(data) != stop - start:
            raise StorageFailed(f"{self.place.fields.storage}={self.url}: {key} was cut off while reading; run the same command again")
        return data

    def _read(self, key: str, start: int, stop: int | None, store: "AzureStore", etag: str | None = None) -> bytes:
        import obstore
        from obstore.exceptions import BaseError

        wanted: Any = {"if_match": etag} if etag else {}
        if stop is not None:
            wanted["range"] = (start, stop)
        elif start:
            wanted["range"] = {"offset": start}
        try:
            return bytes(obstore.get(store, self._prefix + key, options=wanted).bytes())
        except BaseError as error:
            if _answer(error)[0] == 416 or (start and "range" in str(error).lower() and not isinstance(error, FileNotFoundError)):
                return b""
            raise


def _version(etag: str) -> str:
    """An ETag, which is quoted in one answer and not in the other."""
    return etag.strip('"')


class _Counted:
    """Blocks, and how many bytes of them were taken."""

    def __init__(self, blocks: Iterable[Bytes]) -> None:
        self._blocks, self.size, self.begun = blocks, 0, False

    def __iter__(self) -> Iterator[Bytes]:
        self.begun = True
        for block in self._blocks:
            self.size += len(block)
            if len(block):
                yield bytes(block) if isinstance(block, memoryview) else block
