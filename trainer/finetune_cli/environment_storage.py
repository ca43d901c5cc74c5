"""Object storage that a command names itself, with the settings of the environment: there is no job whose fields could be corrected."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune_trainer.storage.errors import StorageFields
    from finetune_trainer.storage.protocol import Storage

# Variables of the libraries themselves: where the server is, and what a message tells to correct.
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "gs": ("STORAGE_EMULATOR_HOST",),
    "az": ("AZURE_STORAGE_ENDPOINT",),
}
_CREDENTIALS = {
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
}


def endpoint_of_environment(url: str) -> str | None:
    """The server that the library for this address would find too; told to it, messages name the address."""
    from finetune_api.finetunejob.places import scheme

    return next((found for name in _ENDPOINTS.get(scheme(url), ()) if (found := os.environ.get(name))), None)


def open_from_environment(url: str, argument: str) -> "Storage":
    """Storage at the address that was given as `argument`; touches nothing yet."""
    from finetune_trainer.storage.places import open_storage

    return open_storage(url, endpoint=endpoint_of_environment(url), fields=_fields(url, argument))


def _fields(url: str, argument: str) -> "StorageFields":
    from finetune_api.finetunejob.places import scheme
    from finetune_trainer.storage.errors import StorageFields

    kind = scheme(url)
    return StorageFields(
        storage=argument,
        endpoint=_ENDPOINTS.get(kind, _ENDPOINTS["s3"])[-1],
        region="AWS_DEFAULT_REGION",
        credentials=_CREDENTIALS.get(kind, "the AWS profile or environment"),
        ca_bundle="AWS_CA_BUNDLE" if kind == "s3" else "the machine's certificates",
    )
