"""From an address to a Storage: the one place that knows which addresses there are.

In: a URL and the settings beside it. Out: a Storage. Keys are relative to the URL (`checkpoints/step-00000012/...`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune_api.checks import holds_userinfo
from finetune_api.errors import InvalidStorage
from finetune_api.finetunejob.places import BUCKET_NAMES
from finetune_trainer.storage.azure import AzureCredentials, AzureStorage
from finetune_trainer.storage.connection import Limits, Settings
from finetune_trainer.storage.directory import DirectoryStorage
from finetune_trainer.storage.errors import Place, StorageFields
from finetune_trainer.storage.gcs import GcsCredentials, GcsStorage
from finetune_trainer.storage.protocol import Storage
from finetune_trainer.storage.s3 import S3Storage
from finetune_trainer.storage.s3_client import S3Credentials, S3Settings

Credentials = S3Credentials | GcsCredentials | AzureCredentials
# What a bucket or container may be called, in words, who answers without an endpoint, and what kind of server it is.
_KINDS = {
    "s3": ("3 to 63 lower-case letters, digits, dots or hyphens", "Amazon S3", "S3 server"),
    "gs": ("at least 3 lower-case letters, digits, dots, hyphens or underscores", "Google Cloud Storage", "server of Google Cloud Storage"),
    "az": ("3 to 63 lower-case letters, digits or single hyphens", "Azure Blob Storage", "server of Azure Blob Storage"),
}


def open_storage(
    url: str,
    *,
    endpoint: str | None = None,
    region: str | None = None,
    credentials: Callable[[], Credentials | None] | None = None,
    ca_bundle: Path | None = None,
    base: Path | None = None,
    fields: StorageFields | None = None,
    limits: Limits | None = None,
) -> Storage:
    """Storage at `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or in a directory, relative to `base`.

    Touches neither disk nor network.

    `credentials` is asked again after an authentication error, so that rotated keys are picked up; None, or a None from it, means
    the library's own chain (environment, pod identity). `fields` names the settings in messages. Raises InvalidStorage.
    """
    fields = fields or StorageFields()
    _check_no_keys_in(url, fields.storage, fields.credentials)
    _check_no_keys_in(endpoint or "", fields.endpoint, fields.credentials)
    if "://" not in url:
        return DirectoryStorage((base or Path()) / Path(url).expanduser(), fields=fields)
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme not in _KINDS:
        remedy = "use s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or a directory"
        raise InvalidStorage(f"{fields.storage}={url}: {scheme}:// is not a storage; {remedy}")
    letters, service, server = _KINDS[scheme]
    if not BUCKET_NAMES[scheme].fullmatch(bucket):
        word = "container" if scheme == "az" else "bucket"
        raise InvalidStorage(
            f"{fields.storage}={url}: {bucket!r} is no {word} name; use {scheme}://{word}/prefix, the {word} with {letters}"
        )
    settings: dict[str, Any] = {
        "place": Place(url=url, bucket=bucket, endpoint=endpoint or service, server=server, fields=fields),
        "endpoint": endpoint,
        "credentials": credentials or (lambda: None),
        "ca_bundle": ca_bundle,
        "limits": limits or Limits(),
    }
    prefix = prefix.strip("/")
    if scheme == "gs":
        return GcsStorage(Settings(**settings), prefix)
    if scheme == "az":
        return AzureStorage(Settings(**settings), prefix)
    return S3Storage(S3Settings(region=region, **settings), prefix)


def _check_no_keys_in(url: str, setting: str, credentials: str) -> None:
    """Raise InvalidStorage for `scheme://user:key@host`: URLs are printed. This message does not print it."""
    if holds_userinfo(url):
        raise InvalidStorage(f"{setting} holds a user name or key before '@'; put keys into {credentials}, never into a URL")
