"""Objects in a bucket of an S3 server: boto3 is the client (`s3_client.py`), large objects go in parts (`s3_upload.py`).

An object appears whole or not at all.
"""

import contextlib
import itertools
import random
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.errors import FineTuneError, StorageFailed
from finetune_trainer.files.atomic import Bytes, atomically
from finetune_trainer.storage.directory import Listing, Versions
from finetune_trainer.storage.errors import MissingObject, UploadGone, in_the_way, replaced, server_error
from finetune_trainer.storage.s3_client import S3Connection, S3Settings, answer_of, as_body
from finetune_trainer.storage.s3_upload import Upload
from finetune_trainer.storage.streams import PART_BYTES, in_order, parts

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_DELETE_AT_ONCE = 1000  # the most that one DeleteObjects call takes


class S3Storage:
    """A Storage under a prefix of a bucket. Usable from several threads, not across a fork."""

    def __init__(self, settings: S3Settings, prefix: str) -> None:
        self._connection = S3Connection(settings)
        self._bucket = settings.place.bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self.place = settings.place

    @property
    def url(self) -> str:
        return self.place.url

    def put(self, key: str, data: Bytes) -> None:
        name, body = self._prefix + key, as_body(data)
        with self._told_what_is_in_the_way(key):
            self._connection.call(f"writing {key}", lambda s3: s3.put_object(Bucket=self._bucket, Key=name, Body=body))

    def put_file(self, key: str, path: Path) -> None:
        with path.open("rb") as source:
            self.put_stream(key, iter(lambda: source.read(PART_BYTES), b""))

    def put_stream(self, key: str, blocks: Iterable[Bytes]) -> int:
        following = parts(blocks)
        first = next(following, b"")
        second = next(following, None)
        if second is None:
            self.put(key, first)
            return len(first)
        upload = Upload(self._connection, key, self._prefix + key)
        try:
            with self._told_what_is_in_the_way(key):
                return upload.send(itertools.chain((first, second), following))
        except BaseException:
            # The failure that is on its way matters more; discard_incomplete takes what stays.
            with contextlib.suppress(FineTuneError):
                upload.abort()
            raise

    def put_if_absent(self, key: str, data: Bytes) -> bool:
        name, body = self._prefix + key, as_body(data)

        def create(s3: "S3Client") -> bool:
            from botocore.exceptions import ClientError

            try:
                s3.put_object(Bucket=self._bucket, Key=name, Body=body, IfNoneMatch="*")
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") not in {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}:
                    raise
                return False
            return True

        # boto3 repeats a request whose answer was lost, and is then refused by its own object.
        with self._told_what_is_in_the_way(key):
            return self._connection.call(f"creating {key}", create) or self._holds(key, body)

    @contextlib.contextmanager
    def _told_what_is_in_the_way(self, key: str) -> Iterator[None]:
        """Around a write: servers that keep objects as files say 409 or 500 to a key below an object, which no other try mends.

        Looked for only then, since most servers take such keys.
        """
        try:
            yield
        except StorageFailed as error:
            status, code, _ = answer_of(error.__cause__)
            if status != 409 and status < 500:
                raise
            if (folder := self._in_the_way_of(self._prefix + key)) is None:
                raise
            raise in_the_way(self.place, f"writing {key}", folder=folder, said=f"{status} {code}") from error

    def _in_the_way_of(self, name: str) -> str | None:
        """The object that `name` is below, or `name` itself if objects are below it; None where nobody knows."""
        for folder in (name[:end] for end, letter in enumerate(name) if letter == "/"):
            with contextlib.suppress(FineTuneError):
                self._connection.call(f"looking for {folder}", partial(_head_object, bucket=self._bucket, name=folder))
                return folder
        with contextlib.suppress(FineTuneError):
            below = self._connection.call("listing", lambda s3: s3.list_objects_v2(Bucket=self._bucket, Prefix=f"{name}/", MaxKeys=1))
            return name if below.get("Contents") else None
        return None

    def _holds(self, key: str, data: Bytes) -> bool:
        """Whether the object is there with these bytes; waits for a writer that is at it (S3 says 409 meanwhile)."""
        for seconds in (0.1, 0.3, 1.0, 3.0):
            try:
                return self.get(key) == data
            except MissingObject:
                time.sleep(seconds * random.uniform(0.5, 1.5))
        return False

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        if stop is not None and stop <= start:
            return b""
        return self._get(key, f"bytes={start}-{'' if stop is None else stop - 1}" if (start or stop is not None) else None)

    def _get(self, key: str, bytes_range: str | None = None, etag: str | None = None) -> bytes:
        """An object or a range of it; read again when the connection ends inside the body, where boto3 no longer helps."""
        wanted: Any = {"Bucket": self._bucket, "Key": self._prefix + key}
        wanted |= {"Range": bytes_range} if bytes_range else {}
        wanted |= {"IfMatch": etag} if etag else {}
        attempts = self._connection.limits.attempts
        for attempt in range(1, attempts + 1):
            found = self._connection.call(f"reading {key}", partial(_body, wanted, is_last=attempt == attempts))
            if found is not None:
                data, seen = found
                # Not left to the server: some ignore If-Match (s3rver 3.7.1).
                if etag and seen and _version(seen) != _version(etag):
                    raise replaced(self.place, key)
                return data
            time.sleep(random.uniform(0, min(20.0, 0.25 * 2**attempt)))
        raise AssertionError("the last attempt raises")

    def get_file(self, key: str, path: Path, version: str | None = None) -> None:
        size, etag = self._head(key)
        if version and _version(etag) != version:
            raise replaced(self.place, key)
        ranges = [f"bytes={start}-{min(start + PART_BYTES, size) - 1}" for start in range(0, size, PART_BYTES)]
        with atomically(path) as draft:
            with draft.open("xb") as file:
                # The ETag keeps an object that is replaced meanwhile from giving a mixture.
                for block in in_order(lambda one: self._get(key, one, etag), ranges, self._connection.limits.parallel):
                    file.write(block)
            if draft.stat().st_size != size:
                raise StorageFailed(f"{self.place.fields.storage}={self.url}: {key} was cut off while reading; run the same command again")

    def _head(self, key: str) -> tuple[int, str]:
        """Size in bytes and ETag. Raises MissingObject."""
        answer = self._connection.call(f"reading {key}", lambda s3: s3.head_object(Bucket=self._bucket, Key=self._prefix + key))
        return answer["ContentLength"], answer["ETag"]

    def exists(self, key: str) -> bool:
        try:
            self._head(key)
        except MissingObject:
            return False
        return True

    def list(self, prefix: str = "") -> Listing:
        return [(key, size) for key, size, _ in self.versions(prefix)]

    def versions(self, prefix: str = "") -> Versions:
        def pages(s3: "S3Client") -> Versions:
            found = s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix + prefix)
            return [
                (one["Key"][len(self._prefix) :], one["Size"], _version(one.get("ETag", "")))
                for page in found
                for one in page.get("Contents", [])
            ]

        return sorted(self._connection.call(f"listing {prefix or 'everything'}", pages))

    def delete(self, keys: Iterable[str]) -> None:
        names = sorted({self._prefix + key for key in keys})
        for begin in range(0, len(names), _DELETE_AT_ONCE):
            self._delete([{"Key": name} for name in names[begin : begin + _DELETE_AT_ONCE]])

    def _delete(self, objects: Any) -> None:
        doing = f"deleting {len(objects)} objects"
        answer = self._connection.call(doing, lambda s3: s3.delete_objects(Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True}))
        for one in answer.get("Errors", []):
            code = one.get("Code", "")
            raise server_error(
                self.place,
                f"deleting {one.get('Key')}",
                code=code,
                status=403 if code == "AccessDenied" else 0,
                message=one.get("Message", ""),
            )

    def discard_incomplete(self, ours: Callable[[str], bool]) -> None:
        def uploads(s3: "S3Client") -> "list[tuple[str, str]]":
            found = s3.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=self._prefix)
            return [(one["Key"], one["UploadId"]) for page in found for one in page.get("Uploads", [])]

        for name, upload in self._connection.call("listing incomplete uploads", uploads):
            key = name.removeprefix(self._prefix)
            if ours(key):
                with contextlib.suppress(UploadGone):
                    Upload(self._connection, key, name, upload).abort()


def _version(etag: str) -> str:
    """An ETag, which some servers quote in one answer and not in the other."""
    return etag.strip('"')


def _head_object(s3: "S3Client", *, bucket: str, name: str) -> Any:
    return s3.head_object(Bucket=bucket, Key=name)


def _body(wanted: Any, s3: "S3Client", *, is_last: bool) -> tuple[bytes, str] | None:
    """The answer to GetObject, and its ETag; None if it ended in the middle, or that error if there is no other attempt."""
    from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError

    try:
        answer = s3.get_object(**wanted)
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") in {"InvalidRange", "416"}:
            return b"", ""
        raise
    body = answer["Body"]
    try:
        return body.read(), answer.get("ETag", "")
    except (HTTPClientError, IncompleteReadError):
        if is_last:
            raise
        return None
    finally:
        body.close()
