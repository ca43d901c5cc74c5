"""Object storage that a command names itself, with the settings of the environment: there is no job whose fields could be corrected."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune_trainer.storage.protocol import Storage


def endpoint_of_environment() -> str | None:
    """The S3 server that boto3 would find too; told to it, messages name the address."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def open_from_environment(url: str, argument: str) -> "Storage":
    """Storage at the address that was given as `argument`; touches nothing yet."""
    from finetune_trainer.storage.errors import StorageFields
    from finetune_trainer.storage.s3 import open_storage

    fields = StorageFields(
        storage=argument,
        endpoint="AWS_ENDPOINT_URL",
        region="AWS_DEFAULT_REGION",
        credentials="the AWS profile or environment",
        ca_bundle="AWS_CA_BUNDLE",
    )
    return open_storage(url, endpoint=endpoint_of_environment(), fields=fields)
