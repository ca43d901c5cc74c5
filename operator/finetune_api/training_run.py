"""TrainingRun: a job with every answer filled in, frozen as JSON that outlives the program that wrote it.

In: the job, what preparation resolved (revisions, shapes) and the plan. Out: one value that every attempt runs exactly,
with a digest over its canonical JSON. What the numbers mean is decided in `plan` and `memory`, not here.
"""

import hashlib
import json
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from finetune_api.errors import InvalidTrainingRun
from finetune_api.field_use import selected
from finetune_api.finetunejob import FineTuneJob, Model, ModelShape, Natural, Positive
from finetune_api.finetunejob.training import LEARNING_RATES
from finetune_api.json_text import json_value

# Raised when a reader of the old JSON would misunderstand the new one.
CONTRACT_VERSION: Final = 2

# Products of a spec's numbers, which have more than its 64 bits when somebody wants them to.
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]

# Raised when the same dialogue becomes other ids or labels: a run that began with the older ones can't go on with these.
# 2: whole texts, as engines encode them; `template.name` is `auto` where a job names none.
TEXTS_TO_IDS: Final = 2


class SplitShape(Model):
    """How much there is on one side of the split. A segment is one encoded piece of a dialogue, a row a packed sequence."""

    dialogues: Natural = Field(description="Dialogues used.")
    segments: Natural = Field(description="Encoded pieces; more than dialogues when over-long ones are split at turns.")
    tokens: Natural = Field(description="Tokens in all segments.")
    supervised_tokens: Natural = Field(description="Tokens that count in the loss.")
    rows: Natural = Field(description="Packed rows of at most maxSequenceLength tokens.")
    squared_lengths: Natural = Field(description="Sum over segments of the squared length: what attention costs.")


class DataShape(Model):
    """The size of the prepared data."""

    fingerprint: str = Field(description="Digest of every setting that shapes rows; also the folder's name.")
    train: SplitShape = Field(description="What is trained on.")
    evaluation: SplitShape | None = Field(default=None, description="What is held out.")


class Vocabulary(Model):
    """The tokens that the trained model knows."""

    size: Positive = Field(description="Rows that the embedding needs, control tokens included; a base model with more keeps them.")
    new_token_ids: tuple[Natural, ...] = Field(default=(), description="Control tokens that the base model has never seen.")


class MemoryTerm(Model):
    """One part of a worker's peak memory."""

    name: str = Field(description="What occupies it.")
    bytes: Count = Field(description="Its size.")
    formula: str = Field(description="How the size came about, with the numbers put in.")
    phase: Literal["always", "pass", "update"] = Field(description="Held always, only in forward and backward, or only in the update.")
    basis: Literal["counted", "estimated", "assumed"] = Field(description="From the settings, a rule of thumb, or an allowance.")


class Memory(Model):
    """Peak memory of one worker: what is held always and the larger of the two phases."""

    terms: tuple[MemoryTerm, ...] = Field(description="Its parts.")
    total_bytes: Count = Field(description="The peak.")
    capacity_bytes: AtLeastOne | None = Field(default=None, description="What one worker has; absent when it isn't known.")


class TimeTerm(Model):
    """One part of a step's time."""

    name: str = Field(description="What takes it.")
    seconds: float = Field(description="How long.")
    formula: str = Field(description="How it came about, with the numbers put in.")
    basis: Literal["estimated", "assumed"] = Field(description="From speeds of the machine, or from one that nobody gave.")


class Timing(Model):
    """How long it takes, and how it came about. Where speeds are a range, the slowest counts; `best` is the fastest."""

    terms: tuple[TimeTerm, ...] = Field(description="Parts of a full step, in order; communication less what goes on behind computing.")
    seconds_per_step: float = Field(description="A full step: their sum.")
    best_seconds_per_step: float = Field(description="A full step with all that a tuned stack and a fast network reach.")
    mfu: float | None = Field(
        default=None, description="Share of the peak that the model's own operations reach; absent: no peak is known."
    )
    best_mfu: float | None = Field(default=None, description="The same at best.")
    best_seconds: float | None = Field(default=None, description="Computing time of all steps, at best.")
    start_seconds: float | None = Field(default=None, description="Until the first step: workers start, weights are fetched and read.")
    checkpoint_seconds: float | None = Field(default=None, description="Writing a checkpoint; beside training, but at the end.")
    checkpoints: Count | None = Field(default=None, description="Checkpoints of a run.")
    held_seconds: float | None = Field(default=None, description="All that GPUs are held for: start, steps, evaluations, checkpoints.")
    best_held_seconds: float | None = Field(default=None, description="The same at best.")
    calibrated_by: Count = Field(default=0, description="Runs that the speeds were taken from; 0 is none.")


class Unknown(Model):
    """Something that the plan can't say yet, and why."""

    name: str = Field(description="What is unknown.")
    why: str = Field(description="What would make it known.")


class Plan(Model):
    """What the job's numbers amount to. None means unknown, and `unknown` says why."""

    device: Literal["cpu", "gpu"] = Field(description="Where workers compute.")
    accelerator: str | None = Field(default=None, description="GPU model that was planned for.")
    precision: Literal["bf16", "fp16", "fp32"] = Field(description="Arithmetic of forward and backward.")
    world_size: AtLeastOne = Field(description="Workers in all.")
    nodes: AtLeastOne = Field(description="Machines.")
    micro_batch_size: AtLeastOne = Field(description="Rows per worker and micro-step.")
    micro_steps: AtLeastOne = Field(description="Micro-steps of each rank in a full optimizer step.")
    global_batch_size: AtLeastOne = Field(description="Rows in a full optimizer step.")
    max_sequence_length: AtLeastOne = Field(description="Most tokens in a row.")
    tokens_per_step: AtLeastOne = Field(description="Most tokens in an optimizer step.")
    rows_per_epoch: Count | None = Field(default=None, description="Packed rows in a pass over the data.")
    steps_per_epoch: AtLeastOne | None = Field(default=None, description="Optimizer steps in a pass; the last one may be short.")
    epochs: AtLeastOne | None = Field(default=None, description="Passes over the data, the last one perhaps in part.")
    total_steps: AtLeastOne | None = Field(default=None, description="Optimizer steps in all.")
    warmup_steps: Count | None = Field(default=None, description="Steps of linear warm-up.")
    recompute_every: Count | None = Field(
        default=None, description="Of so many layers one recomputes its activations; 0: none. Absent: as activationCheckpointing says."
    )
    memory: Memory | None = Field(default=None, description="Peak memory of one worker.")
    host_loading_bytes: Count | None = Field(default=None, description="Memory per node that streaming the weights in needs.")
    checkpoint_bytes: Count | None = Field(default=None, description="Size of one checkpoint.")
    export_bytes: Count | None = Field(default=None, description="Size of the published weights.")
    flops_per_token: float | None = Field(default=None, description="Operations per token, recomputation included.")
    efficiency: float | None = Field(default=None, description="Share of the GPU's peak that all operations reach together.")
    seconds_per_step: float | None = Field(default=None, description="Time of a full step, estimated.")
    seconds: float | None = Field(default=None, description="Time of all steps and evaluations, estimated.")
    gpu_hours: float | None = Field(default=None, description="GPU hours from the start of workers to the end, estimated.")
    timing: Timing | None = Field(default=None, description="How the time came about; absent when none is known.")
    unknown: tuple[Unknown, ...] = Field(default=(), description="What isn't known, and why.")
    notes: tuple[str, ...] = Field(default=(), description="What is worth knowing besides.")

    @property
    def best_gpu_hours(self) -> float | None:
        """GPU hours at best."""
        if self.gpu_hours is None or self.timing is None or not self.timing.held_seconds or self.timing.best_held_seconds is None:
            return None
        return self.gpu_hours * self.timing.best_held_seconds / self.timing.held_seconds


class TrainingRun(Model):
    """The frozen run: what every attempt executes, whatever version of the program starts it.

    `from_json(run.to_json())` equals `run`; JSON of another contract version is refused with InvalidTrainingRun.
    """

    contract_version: Literal[2] = Field(default=CONTRACT_VERSION, description="Version of this JSON.")
    job: FineTuneJob = Field(description="The job, defaults filled in.")
    identity: str = Field(description="`run_identity` of the job; storage belongs to it.")
    model_revision: str = Field(description="Commit of the base model, or a digest of its files.")
    model_shape: ModelShape = Field(description="Shape of the base model.")
    vocabulary: Vocabulary = Field(description="Tokens, control tokens included.")
    data: DataShape = Field(description="Size of the prepared data.")
    plan: Plan = Field(description="The final plan.")

    def to_json(self, *, readable_with: str = "") -> str:
        """Canonical JSON: sorted keys, camelCase, defaults written out, one trailing newline.

        `readable_with`, another run's JSON: for a program that may be older than this one and refuses what it doesn't know; a default
        that isn't in there is left out.
        """
        value: Any = self.model_dump(mode="json", by_alias=True)
        if readable_with:
            chosen = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
            chosen["plan"].pop("timing", None)  # for people; nobody executes it
            value = _without_new(value, chosen, json.loads(readable_with))
        return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "TrainingRun":
        """The run that `to_json` wrote. Raises InvalidTrainingRun."""
        _check_contract(text)
        try:
            return cls.model_validate_json(text, by_alias=True, by_name=False)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise InvalidTrainingRun(f"run.json is damaged at {where}: {first['msg']}; remove it to plan again") from None

    @property
    def digest(self) -> str:
        """`digest_of` the canonical JSON, which it writes anew each time."""
        return digest_of(self.to_json())


def _without_new(value: Any, chosen: Any, known: Any) -> Any:
    """`value` without what is neither `chosen`, as defaults aren't, nor among the keys of `known`.

    >>> _without_new({"a": 1, "new": 0, "list": [{"b": 2, "new": 0}]}, {"a": 1, "list": [{}]}, {"list": [{"b": 1}, {"c": 1}]})
    {'a': 1, 'list': [{'b': 2}]}
    """
    if isinstance(value, dict):
        chosen, known = (found if isinstance(found, dict) else {} for found in (chosen, known))
        return {key: _without_new(item, chosen.get(key), known.get(key)) for key, item in value.items() if key in chosen or key in known}
    if isinstance(value, list):
        keys = {key: item for one in known or [] if isinstance(one, dict) for key, item in one.items()} if isinstance(known, list) else {}
        return [_without_new(item, one, keys) for item, one in zip(value, chosen or [None] * len(value), strict=True)]
    return value


def digest_of(text: str) -> str:
    """SHA-256 (hex) of a run's canonical JSON."""
    return hashlib.sha256(text.encode()).hexdigest()


def _check_contract(text: str | bytes) -> None:
    """Look at the version before the fields: another version may have other fields."""
    try:
        data = json_value(text)
    except ValueError:
        raise InvalidTrainingRun("run.json is not JSON; it was cut off or altered; remove it to plan again") from None
    version = data.get("contractVersion") if isinstance(data, dict) else None
    if version != CONTRACT_VERSION:
        raise InvalidTrainingRun(
            f"run.json has contract version {version}, and this program reads {CONTRACT_VERSION}; "
            "continue the run with the version that began it, or start anew in another folder"
        )


def run_identity(job: FineTuneJob) -> str:
    """SHA-256 (hex) over what decides the result: model, dataset, template and training, as far as it isn't a default.

    Equal for jobs that differ only in workers, Secrets, caches, the order of keys, or in whether a default is written out.
    Micro-batch and recomputation are left out: they change memory and speed, and a run may go on with others.
    """
    # Without defaults, so that a setting which comes with a later version changes nobody's identity (docs/decisions/0007).
    value = {"textsToIds": TEXTS_TO_IDS, **_identity_fields(job, defaults=False)}
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def identity_differences(one: FineTuneJob, other: FineTuneJob) -> list[str]:
    """Paths of the fields in which the identities of two jobs differ, sorted; none when `run_identity` is equal."""
    return sorted(_differences(_identity_fields(one, defaults=True), _identity_fields(other, defaults=True), "spec"))


def _identity_fields(job: FineTuneJob, *, defaults: bool) -> dict[str, Any]:
    spec = selected(job.spec, lambda use: use.identity, defaults=defaults)
    training = spec.setdefault("training", {})
    training["epochs"] = job.spec.training.effective_epochs
    optimizer = training.setdefault("optimizer", {})
    optimizer["warmupRatio"] = job.spec.training.optimizer.effective_warmup_ratio
    # Absent or written, a default is the same; that of `full` was once a default that nobody's identity holds.
    rate, adapter = job.spec.training.effective_learning_rate, job.spec.training.adapter
    optimizer["learningRate"] = None if rate == LEARNING_RATES["full"] and not defaults else rate
    training["lora"] = {} if adapter is None else adapter.model_dump(mode="json", exclude_defaults=not defaults)
    for section, name in ((optimizer, "learningRate"), (training, "lora")):
        if not section[name]:
            del section[name]
    return spec


def _differences(one: Any, other: Any, path: str) -> list[str]:
    """
    >>> _differences({"a": 1, "b": [1, 2]}, {"a": 1, "b": [1, 3]}, "spec")
    ['spec.b.1']
    """
    if isinstance(one, dict) and isinstance(other, dict):
        return [found for key in one.keys() | other.keys() for found in _differences(one.get(key), other.get(key), f"{path}.{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [found for index in range(len(one)) for found in _differences(one[index], other[index], f"{path}.{index}")]
    return [] if one == other else [path]
