"""Each field of a spec and when it has an effect: always, or under a condition that somebody checks.

A condition within one object is an `EFFECTS` row of that object's model (refused by pydantic and the API server alike), one over several
sections a row of `checks.CONTRADICTIONS` (refused by the plan), and one whose wish is met all the same a row of `NOTES` (told). A test
holds that each field stands in exactly one of these places, so that no field is added without the question being asked.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from finetune_api import finetunejob as job
from finetune_api.checks import device
from finetune_api.engines import engine_name
from finetune_api.finetunejob.effects import is_set, yaml_path

# The fields of each object that act in every job that has the object. Those of pods act on a cluster only: `finetune run` says so
# (`checks.cluster_only_fields`). A Secret's name and key, a volume's source and the like act wherever their object does.
ALWAYS: Final[dict[str, str]] = {
    "FineTuneJobSpec": "suspend retry ttlSecondsAfterFinished reportTo",
    "BaseModelSpec": "name",
    "ModelShape": "architecture layers hiddenSize intermediateSize attentionHeads keyValueHeads headSize vocabularySize positions "
    "parameters activeParameters slidingWindow",
    "ModelCache": "claimName",
    "DataSource": "path split format weight limit",
    "EvaluationData": "split fraction",
    "Dataset": "maxInvalidRows overlongTurns leadingAssistantTurns trailingUserTurns processes",
    "TemplateSpec": "name masking jinja",
    "ControlTokens": "system user assistant end",
    "Training": "method sharding epochs maxSteps maxSequenceLength microBatchSize globalBatchSize precision tf32 dropout attentionDropout "
    "activationCheckpointing logEverySteps seed",
    "Optimizer": "name learningRate schedule warmupRatio warmupSteps weightDecay gradientClipping beta1 beta2 epsilon",
    "Lora": "r lora_alpha lora_dropout target_modules modules_to_save use_rslora use_dora",
    "ZeroOptimization": "",
    "Offload": "",
    "PodSettings": "image labels annotations nodeSelector schedulerName runtimeClassName priorityClassName serviceAccountName queueName",
    "Workers": "nodes device peakTeraflops startDeadlineSeconds collectiveTimeoutSeconds",
    "Resources": "requests limits",
    "EnvVar": "name value",
    "KeyRef": "name key optional",
    "FieldRef": "fieldPath",
    "ResourceFieldRef": "resource divisor",
    "EnvFrom": "prefix",
    "ObjectRef": "name optional",
    "LocalObject": "name",
    "Toleration": "key operator value effect tolerationSeconds",
    "LabelRequirement": "key operator values",
    "LabelSelector": "matchLabels",
    "NodeRequirement": "key operator values",
    "NodeSelectorTerm": "",
    "PreferredNode": "weight",
    "PodAffinityTerm": "topologyKey namespaces matchLabelKeys mismatchLabelKeys",
    "WeightedPodAffinityTerm": "weight",
    "TopologySpreadConstraint": "maxSkew topologyKey whenUnsatisfiable minDomains nodeAffinityPolicy nodeTaintsPolicy matchLabelKeys",
    "Volume": "name mountPath subPath readOnly",
    "CsiVolume": "driver fsType volumeAttributes",
    "ClaimVolume": "claimName",
    "EphemeralVolume": "storageClassName size",
    "EmptyDir": "medium sizeLimit",
    "NamedVolume": "name",
    "Checkpoints": "storage keep",
    "CheckpointInterval": "seconds steps",
    "Evaluation": "tasks",
    "EvaluationPod": "gpus",
    "EarlyStopping": "patience minDelta",
    "Judge": "baseUrl model prompts limit maxTokens",
    "Samples": "prompts count maxNewTokens",
    "Generation": "temperature repetitionPenalty minNewTokens maxNewTokens",
    "Publish": "",
    "HubPublication": "repository private revision message",
    "DirectoryPublication": "path",
    "StoragePublication": "path endpoint region",
    "Gate": "",
    "Card": "limitations",
    "Maximum": "max",
    "Minimum": "min",
    "FailurePolicy": "maxFailures backoffSeconds maxFailedStarts maxAttemptsWithoutProgress halveMicroBatchSize",
    "Budget": "activeDeadlineSeconds stageDeadlineSeconds",
    "SecretKey": "name key",
    "SecretName": "name",
}


@dataclass(frozen=True, slots=True)
class Note:
    """Where `idle(spec)` is true, `field` (Python names, below spec) has no effect, which is worth a sentence and no refusal."""

    field: str
    idle: Callable[[job.FineTuneJobSpec], bool]
    message: str


def _nowhere(spec: job.FineTuneJobSpec) -> bool:
    return spec.publish.place is None


def _undivided(spec: job.FineTuneJobSpec) -> bool:
    return engine_name(spec.training, spec.workers.world_size) == "plain"


NOTES: Final = (
    Note(
        "workers.accelerator", lambda s: device(s) == "cpu", "is the GPU model that is planned for, and the workers of this job are on CPUs"
    ),
    Note("workers.gpu_resource", lambda s: device(s) == "cpu", "is what nodes call a GPU, and the workers of this job are on CPUs"),
    Note("training.sharding", _undivided, "is how a model is divided over workers, and this job has one"),
    Note("training.deepspeed", _undivided, "has settings of DeepSpeed, which one worker alone does without"),
    Note("generation.top_k", lambda s: s.generation.temperature == 0.0, "chooses among candidates, and temperature 0 takes the likeliest"),
    Note("generation.top_p", lambda s: s.generation.temperature == 0.0, "chooses among candidates, and temperature 0 takes the likeliest"),
    Note("publish.gate.evaluation_loss", _nowhere, "is asked by `finetune publish` alone: the job itself publishes nowhere"),
    Note("publish.gate.judge_win_rate", _nowhere, "is asked by `finetune publish` alone: the job itself publishes nowhere"),
)


def idle_notes(spec: job.FineTuneJobSpec) -> list[str]:
    """A sentence for each field that is set, has no effect, and is not refused.

    >>> from finetune_api.jobfile import parse_job
    >>> spec = {"model": {"name": "org/m"}, "dataset": {"sources": [{"path": "org/d"}]}, "generation": {"temperature": 0, "topK": 5}}
    >>> idle_notes(parse_job({"metadata": {"name": "x"}, "spec": spec}).spec)
    ['spec.generation.topK has no effect: it chooses among candidates, and temperature 0 takes the likeliest.']
    """
    found = [note for note in NOTES if is_set(spec, note.field) and note.idle(spec)]
    return [f"spec.{yaml_path(note.field)} has no effect: it {note.message}." for note in found]
