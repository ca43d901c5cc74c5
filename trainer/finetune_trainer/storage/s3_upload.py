"""A large object sent to an S3 server in parts, several at a time."""

from collections.abc import Iterable
from typing import Any

from finetune_trainer.files.atomic import Bytes
from finetune_trainer.storage.errors import UploadGone
from finetune_trainer.storage.s3_client import S3Connection, as_body
from finetune_trainer.storage.streams import at_once


class Upload:
    """A multipart upload."""

    def __init__(self, connection: S3Connection, key: str, name: str, upload: str | None = None) -> None:
        self._connection, self._key = connection, key
        self._target: Any = {"Bucket": connection.place.bucket, "Key": name}
        started = upload or connection.call(f"writing {key}", lambda s3: s3.create_multipart_upload(**self._target))["UploadId"]
        self._target["UploadId"] = started

    def send(self, parts: Iterable[Bytes]) -> int:
        """Upload parts, several at a time, and make the object appear; its size in bytes."""
        sent = at_once(self._send_part, enumerate(parts, 1), self._connection.limits.parallel)
        size = sum(part_size for _, _, part_size in sent)
        self._complete([{"PartNumber": number, "ETag": etag} for number, etag, _ in sent], size)
        return size

    def _send_part(self, numbered: tuple[int, Bytes]) -> tuple[int, str, int]:
        number, part = numbered
        body = as_body(part)
        answer = self._connection.call(f"writing {self._key}", lambda s3: s3.upload_part(**self._target, PartNumber=number, Body=body))
        return number, answer["ETag"], len(part)

    def _complete(self, parts: list[dict[str, Any]], size: int) -> None:
        try:
            self._connection.call(
                f"writing {self._key}",
                lambda s3: s3.complete_multipart_upload(**self._target, MultipartUpload={"Parts": parts}),  # type: ignore[typeddict-item]
            )
        except UploadGone:
            # The answer to an earlier try was lost, and the upload with it became an object.
            where = {name: self._target[name] for name in ("Bucket", "Key")}
            found = self._connection.call(f"writing {self._key}", lambda s3: s3.head_object(**where))
            if found["ContentLength"] != size:
                raise

    def abort(self) -> None:
        """Give up; the server frees the parts."""
        self._connection.call(f"giving up {self._key}", lambda s3: s3.abort_multipart_upload(**self._target))
