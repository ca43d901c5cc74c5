"""Constants that cross a process, each with who writes it and who reads it."""

from typing import Final, Literal

# The API group: job files and the CRD carry it; the command line and the operator read it.
API_VERSION: Final[Literal["finetune.dev/v1alpha1"]] = "finetune.dev/v1alpha1"
KIND: Final[Literal["FineTuneJob"]] = "FineTuneJob"

# Folder of mounted Secrets, `<folder>/<secret>/<key>`: the operator's pods or a user set it, the trainer reads it.
SECRETS_FOLDER_ENV: Final = "FINETUNE_SECRETS"
