"""Constants that cross a process, each with who writes it and who reads it."""

from typing import Final, Literal

# The API group: job files and the CRD carry it; the command line and the operator read it.
API_VERSION: Final[Literal["finetune.dev/v1alpha1"]] = "finetune.dev/v1alpha1"
KIND: Final[Literal["FineTuneJob"]] = "FineTuneJob"

# Folder of mounted Secrets, `<folder>/<secret>/<key>`: the operator's pods or a user set it, the trainer reads it.
SECRETS_FOLDER_ENV: Final = "FINETUNE_SECRETS"

# Labels of every object and pod of a job: the operator writes them; its watches, `finetune logs` and people select by them.
GROUP: Final = "finetune.dev"
JOB_LABEL: Final = f"{GROUP}/job"
STAGE_LABEL: Final = f"{GROUP}/stage"
# Values of the stage label.
PREPARATION: Final[Literal["preparation"]] = "preparation"
TRAINING: Final[Literal["training"]] = "training"
EVALUATION: Final[Literal["evaluation"]] = "evaluation"
PUBLICATION: Final[Literal["publication"]] = "publication"

# Containers that `finetune logs` reads: a stage's own, and the one in which KubeRay's submitter prints the driver's log.
MAIN_CONTAINER: Final = "main"
SUBMITTER_CONTAINER: Final = "ray-job-submitter"
