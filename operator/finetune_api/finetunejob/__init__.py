"""FineTuneJob: what a user writes. The authority for fields, defaults and descriptions; the CRD is generated from it.

In: a mapping that came from YAML or the API server. Out: a frozen value with every default filled in. Rules that look at
one object are here, one file a section of the spec; arithmetic over several is in `plan`. What is not built has no field.
This room does no I/O.
"""

from finetune_api.finetunejob.checkpoints import CheckpointInterval, Checkpoints
from finetune_api.finetunejob.dataset import (
    Columns,
    DataFilter,
    Dataset,
    DataSource,
    EvaluationData,
    Format,
    MessageProperties,
    RoleMapping,
)
from finetune_api.finetunejob.evaluation import EarlyStopping, Evaluation, EvaluationPod, Generation, Judge, Samples
from finetune_api.finetunejob.job import Budget, FailurePolicy, FineTuneJob, FineTuneJobSpec, Metadata
from finetune_api.finetunejob.lora import ALL_LINEAR, Lora
from finetune_api.finetunejob.model import BaseModelSpec, ModelShape
from finetune_api.finetunejob.pod_env import EnvFrom, EnvVar, ValueFrom
from finetune_api.finetunejob.pod_placement import Affinity, LabelRequirement, NodeRequirement, Toleration, TopologySpreadConstraint
from finetune_api.finetunejob.pod_volumes import LocalObject, NamedVolume, Volume
from finetune_api.finetunejob.pods import GPU_RESOURCE, PodSettings, Resources, Workers
from finetune_api.finetunejob.publish import Card, DirectoryPublication, Gate, HubPublication, Maximum, Minimum, Publish, StoragePublication
from finetune_api.finetunejob.template import ControlTokens, TemplateSpec
from finetune_api.finetunejob.training import Offload, Optimizer, Training, ZeroOptimization
from finetune_api.finetunejob.types import (
    LARGEST_INTEGER,
    Model,
    Natural,
    Positive,
    SecretKey,
    SecretName,
    Spec,
)

__all__ = [
    "ALL_LINEAR",
    "GPU_RESOURCE",
    "LARGEST_INTEGER",
    "Affinity",
    "BaseModelSpec",
    "Budget",
    "Card",
    "CheckpointInterval",
    "Checkpoints",
    "Columns",
    "ControlTokens",
    "DataFilter",
    "DataSource",
    "Dataset",
    "DirectoryPublication",
    "EarlyStopping",
    "EnvFrom",
    "EnvVar",
    "Evaluation",
    "EvaluationData",
    "EvaluationPod",
    "FailurePolicy",
    "FineTuneJob",
    "FineTuneJobSpec",
    "Format",
    "Gate",
    "Generation",
    "HubPublication",
    "Judge",
    "LabelRequirement",
    "LocalObject",
    "Lora",
    "Maximum",
    "MessageProperties",
    "Metadata",
    "Minimum",
    "Model",
    "ModelShape",
    "NamedVolume",
    "Natural",
    "NodeRequirement",
    "Offload",
    "Optimizer",
    "PodSettings",
    "Positive",
    "Publish",
    "Resources",
    "RoleMapping",
    "Samples",
    "SecretKey",
    "SecretName",
    "Spec",
    "StoragePublication",
    "TemplateSpec",
    "Toleration",
    "TopologySpreadConstraint",
    "Training",
    "ValueFrom",
    "Volume",
    "Workers",
    "ZeroOptimization",
]
