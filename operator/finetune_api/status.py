"""FineTuneJob.status: what the operator records. Lists are bounded, counters only grow; the CRD's schema is generated from it."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError

from finetune_api.bounded_text import shortened
from finetune_api.conditions import NEWER_WORDS, Condition, ConditionType, StatusItem, StatusModel, Time
from finetune_api.duration import flops_at_full_use, model_flops_per_token
from finetune_api.finetunejob import LARGEST_INTEGER, FineTuneJobSpec, ModelShape, Natural, Positive
from finetune_api.finetunejob.types import FreeObject, Share
from finetune_api.price import NO_PRICES, Prices, cost_of, price_of
from finetune_api.training_run import DataShape, Plan

# Newest entries that are kept of lists that would grow for ever.
LONGEST_LIST = 20
LONGEST_MESSAGE = 1024
# Of an attempt that are followed one by one.
MOST_PODS = 512
# Numbers of benchmarks that are kept beside those in storage.
MOST_TASKS = 16
# Of what a failed program said last.
MOST_LINES = 8
LONGEST_LINE = 240
# Of an attempt that has ended, and of those that one avoids.
MOST_NODES = 16
LONGEST_TASK = 128
LONGEST_WORD = 64

BY_TYPE: dict[str, Any] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}

Name = Annotated[str, Field(max_length=253)]
Word = Annotated[str, Field(max_length=LONGEST_WORD)]
Digest = Annotated[str, Field(max_length=128)]
Text = Annotated[str, Field(max_length=LONGEST_MESSAGE)]
LastLines = Annotated[list[Annotated[str, Field(max_length=LONGEST_LINE)]], Field(max_length=MOST_LINES)]
NotNegative = Annotated[float, Field(ge=0.0)]
Item = TypeVar("Item")


class DefaultsStatus(StatusModel):
    """Defaults of the platform, as they were when the job took them: another time they may be others."""

    sources: Annotated[list[Text], Field(max_length=4)] = Field(description="Where they come from, the first wins.")
    values: FreeObject = Field(description="What jobs are given: workers, cpuPods, checkpoints, accelerators.")


class PreparationStatus(StatusModel):
    """The newest preparation. Its Job's name carries its digest, so that another spec is another Job."""

    digest: Digest = Field(description="Digest of all that preparation reads.")
    job: Name = Field(description="Name of the Job.")
    data_fingerprint: Digest | None = Field(default=None, description="Fingerprint of the prepared data; absent until it is done.")
    dialogues: Natural | None = Field(default=None, description="Dialogues to train on.")
    tokens: Natural | None = Field(default=None, description="Tokens to train on.")
    supervised_tokens: Natural | None = Field(default=None, description="Tokens that count in the loss.")
    rows: Natural | None = Field(default=None, description="Packed rows to train on.")
    evaluation_rows: Natural | None = Field(default=None, description="Packed rows that are held out.")


class RunStatus(StatusModel):
    """The frozen run that every attempt executes."""

    identity: Digest = Field(description="Digest of model, data, template and training; storage belongs to it.")
    digest: Digest = Field(description="Digest of the frozen TrainingRun.")
    config_map: Name = Field(description="Name of the immutable ConfigMap that holds it as run.json.")
    preparation_digest: Digest = Field(description="Digest of the preparation that it was made from.")
    contract_version: Positive = Field(default=1, description="Version of its JSON.")
    image: Text | None = Field(default=None, description="Image of the trainer, for all of the run's pods.")
    ray_version: Word | None = Field(default=None, description="Version of Ray in the image, which KubeRay is told.")
    image_that_ran: Text | None = Field(
        default=None, description="Name and digest of the image that preparation ran, where the node told it; later pods run that very one."
    )
    model_revision: Digest = Field(description="Commit of the base model.")
    data_fingerprint: Digest = Field(description="Fingerprint of the prepared data.")


class PlanStatus(StatusModel):
    """The plan's main numbers; absent ones are unknown."""

    final: bool = Field(default=False, description="Whether it follows from prepared data; before that parts of it are unknown.")
    device: Annotated[Literal["cpu", "gpu"], *NEWER_WORDS] | None = Field(default=None, description="Where workers compute.")
    precision: Annotated[Literal["bf16", "fp16", "fp32"], *NEWER_WORDS] | None = Field(
        default=None, description="Arithmetic of forward and backward."
    )
    world_size: Positive = Field(description="Workers in all.")
    micro_batch_size: Positive | None = Field(default=None, description="Rows of a worker's micro-step.")
    global_batch_size: Positive | None = Field(default=None, description="Rows of a step, of all workers and micro-steps.")
    total_steps: Positive | None = Field(default=None, description="Optimizer steps in all.")
    memory_bytes: Natural | None = Field(default=None, description="Peak memory of one worker, estimated.")
    memory_capacity_bytes: Natural | None = Field(default=None, description="What one worker has.")
    checkpoint_bytes: Natural | None = Field(default=None, description="Size of one checkpoint.")
    seconds: NotNegative | None = Field(default=None, description="Time of all steps and evaluations, estimated.")
    gpu_hours: NotNegative | None = Field(default=None, description="GPU hours from the start of workers to the end, estimated.")
    best_gpu_hours: NotNegative | None = Field(default=None, description="The same at best: a tuned stack and a fast network.")
    cost: NotNegative | None = Field(default=None, description="US dollars for gpuHours; absent where the chart's `prices` has none.")
    flops_per_token: NotNegative | None = Field(
        default=None, description="Operations that the model asks for per token, without recomputation; MFU counts them."
    )
    peak_flops: NotNegative | None = Field(default=None, description="Operations a second of all workers at most.")
    unknown: Annotated[list[Text], Field(max_length=LONGEST_LIST)] = Field(default=[], description="What is unknown, and why.")


class AdjustedStatus(StatusModel):
    """What attempts run with in place of what the spec says. The rows of each step are the same, in the same order."""

    micro_batch_size: Positive | None = Field(
        default=None, description="Rows of a worker's micro-step, since an attempt ran out of memory; for all that follow."
    )
    nodes: Positive | None = Field(
        default=None, description="Worker pods, while not all of workers.nodes are to be had; at least workers.minNodes."
    )
    resized_time: Time | None = Field(default=None, description="Since when it is these, or when all of workers.nodes were last tried.")
    failed_growths: Natural = Field(default=0, description="How often in a row all of workers.nodes were tried since, in vain.")
    growing: bool = Field(default=False, description="Whether the next attempt, or the one that starts, tries all of workers.nodes.")
    message: Text = Field(default="", description="Why.")


class ProgressStatus(StatusModel):
    """The newest report of the running attempt."""

    step: Natural = Field(default=0, description="Optimizer steps done.")
    total_steps: Positive | None = Field(default=None, description="Optimizer steps in all.")
    loss: float | None = Field(default=None, description="Training loss of the newest step.")
    tokens_per_second: NotNegative | None = Field(default=None, description="Tokens per second over all workers, in steps.")
    wall_tokens_per_second: NotNegative | None = Field(
        default=None, description="The same with evaluations, checkpoints and waits, since the attempt's first step began."
    )
    mfu: NotNegative | None = Field(default=None, description="Share of the workers' peak that the model's own operations reach.")
    spread: NotNegative | None = Field(
        default=None, description="How often the median worker's own computing goes into that of the slowest one."
    )
    slowest: Text | None = Field(default=None, description="The slowest worker: its rank and pod.")
    eta: str | None = Field(default=None, max_length=32, description="Time left, as in 1h12m.")
    reported_at: Time | None = Field(default=None, description="When it was reported.")
    stale: bool = Field(default=False, description="Whether an attempt runs and nothing was reported for some time.")
    stale_time: Time | None = Field(default=None, description="Since when the operator has known that.")


class CheckpointStatus(StatusItem):
    """A checkpoint whose manifest was verified."""

    step: Natural = Field(description="Optimizer steps in it.")
    attempt: Positive = Field(description="Attempt that wrote it, counted by the storage.")
    bytes: Natural = Field(default=0, description="Size.")
    committed_at: Time | None = Field(default=None, description="When its manifest was written.")
    seconds: NotNegative | None = Field(default=None, description="How long it took; a pod that is stopped has `trainer.stopSeconds`.")


class CheckpointsStatus(StatusModel):
    """Checkpoints in storage."""

    latest: CheckpointStatus | None = Field(default=None, description="The newest.")
    ledger: Annotated[list[CheckpointStatus], Field(max_length=LONGEST_LIST)] = Field(
        default=[], description="The newest ones, oldest first."
    )


class RayJobReference(StatusItem):
    """The RayJob of an attempt, recorded once it was seen. Recorded and gone means that somebody deleted it."""

    name: Name = Field(description="Name.")
    uid: Word = Field(description="UID: another RayJob of that name is another one.")
    cluster: Name | None = Field(
        default=None, description="Its newest RayCluster; only reports that name it count. Kueue gives a RayJob several, one after another."
    )


class AttemptOutcome(StrEnum):
    """How an attempt ended. Only Failed is charged against failurePolicy.maxFailures."""

    FINISHED = "Finished"  # all steps are done, or evaluation.earlyStopping ended it
    STOPPED = "Stopped"  # we asked it to, and it committed a checkpoint or had its time for that
    PREEMPTED = "Preempted"  # others stopped it: Kueue, the scheduler, a drained node
    HUNG = "Hung"  # it had committed a checkpoint, and then nothing got on
    NODE_LOST = "NodeLost"  # a node or a pod went away under it
    DELETED = "Deleted"  # somebody deleted its RayJob or RayCluster
    NOT_STARTED = "NotStarted"  # not all pods ran within startDeadlineSeconds
    FAILED = "Failed"  # anything else, which may go better the next time
    INVALID_INPUT = "InvalidInput"  # it would fail again until something is changed: the job has failed


class FailureClass(StrEnum):
    """Why an attempt failed; what each costs and what follows is in docs/operator.md."""

    PREEMPTION = "Preemption"  # others took pods or nodes away, or nodes were lost
    START = "Start"  # not all pods ran: an image, a Secret, or no node for them
    HANG = "Hang"  # ranks neither stepped nor did anything else
    OUT_OF_MEMORY = "OutOfMemory"  # of a rank's GPU, or of a pod
    NON_FINITE_LOSS = "NonFiniteLoss"
    STORAGE = "Storage"  # it failed in the middle, after it had worked
    USER_ERROR = "UserError"  # it would fail again until something is changed
    UNKNOWN = "Unknown"


class AttemptPod(StatusItem):
    """A pod of an attempt's RayCluster, from its binding to a node on."""

    name: Name = Field(description="Name.")
    node: Name | None = Field(default=None, description="Its node.")
    gpus: Natural | None = Field(default=None, description="GPUs that it holds there; absent is none.")
    since: Time | None = Field(default=None, description="When it was bound to the node.")
    until: Time | None = Field(default=None, description="When it ended or was gone, and held its GPUs no longer.")
    spare: bool | None = Field(default=None, description="True: Ray got the driver without it, so that its loss ends nothing.")


class EndedPods(StatusItem):
    """Pods of an attempt whose Ray ended before it had the driver. KubeRay replaces each, for ever."""

    count: Positive = Field(description="How often; pods that ended together count once.")
    created_time: Time | None = Field(default=None, description="When the last one was made.")
    message: Text = Field(description="Which it is, and how it ended.")


class EvidenceStatus(StatusItem):
    """What is known of an attempt's failure, beside its message."""

    pod: Name | None = Field(default=None, description="The first of its pods whose program ended by itself, or was ended by its node.")
    node: Name | None = Field(default=None, description="That pod's node.")
    exit_code: Positive | None = Field(default=None, description="Exit code of its container; 137 is a kill.")
    pod_reason: Word | None = Field(default=None, description="The node's word for that, such as OOMKilled.")
    last_lines: LastLines | None = Field(default=None, description="The last lines of the traceback that explains it, without secrets.")


class AttemptStatus(StatusItem):
    """One attempt at training."""

    number: Positive = Field(description="From 1. Entered before its RayJob `<job>-<number>` is made.")
    start_time: Time | None = Field(default=None, description="When it was entered.")
    running_time: Time | None = Field(default=None, description="When all its pods first ran.")
    completion_time: Time | None = Field(default=None, description="When it ended.")
    ray_job: RayJobReference | None = Field(default=None, description="Its RayJob, once it was seen.")
    stop_requested: Word | None = Field(default=None, description="Why we asked it to stop; absent if we didn't.")
    stop_requested_time: Time | None = Field(default=None, description="When we asked.")
    outcome: Annotated[AttemptOutcome, Field(strict=False), *NEWER_WORDS] | None = Field(default=None, description="Absent while it runs.")
    reason: Word | None = Field(default=None, description="Why it ended so.")
    message: Text | None = Field(default=None, description="What a person should know.")
    charged: bool = Field(default=False, description="Whether it counts against failurePolicy.maxFailures.")
    failure: Annotated[FailureClass, Field(strict=False), *NEWER_WORDS] | None = Field(
        default=None, description="Kind of failure that ended it, by which it is charged, waited for and remedied; absent: none."
    )
    evidence: EvidenceStatus | None = Field(default=None, description="What else is known of its failure.")
    run_digest: Digest | None = Field(default=None, description="Digest of the run that it executes; other workers make another run.")
    gpus: Natural | None = Field(default=None, description="GPUs of its workers; a later change of spec.workers is the next attempt's.")
    worker_pods: Positive | None = Field(default=None, description="Its worker pods, each with as many of these GPUs.")
    micro_batch_size: Positive | None = Field(default=None, description="Rows of a worker's micro-step in it.")
    gpu_hours: NotNegative | None = Field(
        default=None, description="GPU hours that its pods have held, from binding on, up to countedTime."
    )
    counted_time: Time | None = Field(
        default=None, description="Up to when: the newest report, or change of a pod. Pods that go on add to it."
    )
    first_step: Natural | None = Field(default=None, description="Step of the checkpoint that it began from; 0 is the base model.")
    last_step: Natural | None = Field(default=None, description="Newest step that it reported.")
    pods: Annotated[list[AttemptPod], Field(max_length=MOST_PODS)] | None = Field(
        default=None, description="While it runs: its pods, and those that are gone."
    )
    leaving: Annotated[list[AttemptPod], Field(max_length=MOST_PODS)] | None = Field(
        default=None, description="Once it has ended: those of its pods that still hold a node."
    )
    nodes: Annotated[list[Name], Field(max_length=MOST_NODES)] | None = Field(
        default=None, description=f"Once it has ended: nodes that it was on, at most {MOST_NODES}."
    )
    failed_node: Name | None = Field(
        default=None, description="Node that its end is laid to. One that two attempts of a day are laid to is avoided by the next."
    )
    avoided_nodes: Annotated[list[Name], Field(max_length=MOST_NODES)] | None = Field(
        default=None, description="Nodes that its pods avoid where they can."
    )
    slow_nodes: Annotated[list[Name], Field(max_length=MOST_NODES)] | None = Field(
        default=None, description="Nodes that the check at its start found slow or faulty. Attempts of the next day avoid them."
    )
    lost: Text | None = Field(default=None, description="While it runs: which of them is lost, where and why.")
    out_of_memory: Text | None = Field(default=None, description="While it runs: which of them ran out of memory.")
    ranks_out_of_memory: bool | None = Field(default=None, description="While it runs: True where that is a worker, and not the head.")
    ended_pods: EndedPods | None = Field(default=None, description="Until Ray has the driver: its pods whose Ray ended.")
    lost_time: Time | None = Field(default=None, description="Since when; later, if a step was reported since.")
    told_time: Time | None = Field(default=None, description="While its RayJob still runs: when its driver first told how it ended.")


class UsageStatus(StatusModel):
    """What was used over all attempts, and by evaluations after them; only grows."""

    gpu_hours: NotNegative = Field(
        default=0.0, description="GPU hours that pods have held, from their binding to a node to their end, whether all pods ran or not."
    )
    evaluation_pods: Annotated[list[AttemptPod], Field(max_length=MOST_PODS)] | None = Field(
        default=None, description="Pods of evaluations with GPUs, as long as they are there; `gpuHours` has those that have ended."
    )
    held_seconds: NotNegative = Field(default=0.0, description="Time for which all pods of attempts that ended ran.")
    goodput_seconds: NotNegative = Field(default=0.0, description="Time that went into steps that count, of attempts that ended.")
    goodput: NotNegative | None = Field(default=None, description="Share of the held time that went into steps that count.")
    charged_failures: Natural = Field(default=0, description="Failures charged.")
    forgiven_failures: Natural = Field(default=0, description="Those of them that were charged before `retry` was last raised.")


class EvaluatedTask(StatusItem):
    """One number of a benchmark: of the trained model, and of its base on the same documents."""

    task: Annotated[str, Field(min_length=1, max_length=LONGEST_TASK)] = Field(description="Name of the task.")
    metric: Word = Field(min_length=1, description="Name of the number, such as acc_norm.")
    value: float | None = Field(default=None, description="Of the trained model; absent where the task gave no number.")
    standard_error: NotNegative | None = Field(default=None, description="Of value.")
    base: float | None = Field(default=None, description="The same of the base model.")
    shots: Natural = Field(description="Examples before each question.")
    limit: Positive | None = Field(default=None, description="Documents that were asked for; absent is all.")
    documents: Natural = Field(description="Documents that were asked.")


class JudgedStatus(StatusModel):
    """How often a judge preferred the trained model's answer to its base's, each pair seen in both orders."""

    model: Annotated[str, Field(min_length=1, max_length=256)] = Field(description="The judge.")
    win_rate: Share = Field(description="Share of the prompts that the trained model won.")
    low: Share = Field(description="Lower end of its 95 % interval, which the gate compares.")
    high: Share = Field(description="Upper end.")
    prompts: Natural = Field(description="Prompts with a readable verdict.")
    partial: bool | None = Field(default=None, description="True: evaluation.judge.maxTokens ended it before the last prompt.")


class EvaluationStatus(StatusModel):
    """The newest evaluation: of training, and after it that of tasks, judge and samples."""

    step: Natural = Field(description="Step of the evaluated checkpoint.")
    loss: float | None = Field(default=None, description="Mean loss of held-out tokens; absent where none are held out.")
    perplexity: float | None = Field(default=None, description="exp(loss); absent where it is too large.")
    digest: Digest | None = Field(
        default=None, description="Digest of what was measured after training, and of which run; absent before that."
    )
    tasks: Annotated[list[EvaluatedTask], Field(max_length=MOST_TASKS)] | None = Field(
        default=None, description=f"Benchmarks, at most {MOST_TASKS} numbers; all are in `results`."
    )
    judge: JudgedStatus | None = Field(default=None, description="The judge's verdict.")
    results: Text | None = Field(default=None, description="Where all figures, answers and verdicts are.")
    failed_job: Name | None = Field(
        default=None, description="Job of an evaluation that failed for good: none of that name is made again. Absent once one is done."
    )


def passed_stages(evaluation: EvaluationStatus | None) -> tuple[ConditionType, ...]:
    """Stages that aren't done and hold nothing up: an evaluation that failed."""
    return (ConditionType.EVALUATED,) if evaluation is not None and evaluation.failed_job is not None else ()


class PublicationStatus(StatusModel):
    """Where the model is."""

    digest: Digest | None = Field(default=None, description="Digest of all that the publication was made from.")
    repository: Text = Field(description="Repository or directory.")
    revision: Digest = Field(description="Commit, verified file by file.")
    step: Natural | None = Field(default=None, description="Step of the published checkpoint.")
    evaluation_loss: float | None = Field(default=None, description="Its evaluation loss.")


class FineTuneJobStatus(StatusModel):
    """What is observed."""

    # kstatus calls an object without a status Current; 0, which no generation is, makes a new job InProgress.
    observed_generation: Natural = Field(default=0, description="Generation of the spec that was looked at.")
    observed_retry: Natural = Field(default=0, description="spec.retry that was acted on; a higher one reopens a failed job.")
    active_time: Time | None = Field(
        default=None, description="When the first preparation was made: budget.activeDeadlineSeconds counts from here."
    )
    start_time: Time | None = Field(default=None, description="When the first attempt began; from then on the run is fixed.")
    completion_time: Time | None = Field(default=None, description="When the job succeeded or failed.")
    conditions: Annotated[list[Condition], Field(max_length=LONGEST_LIST)] = Field(
        default=[], description="Observations.", json_schema_extra=BY_TYPE
    )
    stage: Word | None = Field(default=None, description="A word for display, derived from the conditions.")
    defaults: DefaultsStatus | None = Field(default=None, description="What it was given where its spec says nothing; absent is nothing.")
    plan: PlanStatus | None = Field(default=None, description="The plan.")
    adjusted: AdjustedStatus | None = Field(
        default=None, description="What attempts run with in place of what the spec says; absent: nothing."
    )
    preparation: PreparationStatus | None = Field(default=None, description="The newest preparation.")
    run: RunStatus | None = Field(default=None, description="The frozen run.")
    progress: ProgressStatus | None = Field(default=None, description="The newest report.")
    checkpoints: CheckpointsStatus | None = Field(default=None, description="Checkpoints.")
    attempt: Natural = Field(default=0, description="Attempts begun.")
    failed_starts: Natural = Field(default=0, description="Attempts in a row whose pods never all ran, or that Ray never got.")
    attempts_without_progress: Natural = Field(default=0, description="Attempts in a row that others ended without a new checkpoint.")
    attempts: Annotated[list[AttemptStatus], Field(max_length=LONGEST_LIST)] = Field(
        default=[], description="The newest attempts, oldest first."
    )
    usage: UsageStatus | None = Field(default=None, description="What was used.")
    evaluation: EvaluationStatus | None = Field(default=None, description="The newest evaluation.")
    publication: PublicationStatus | None = Field(default=None, description="Where the model is.")
    dashboard: str | None = Field(default=None, max_length=2048, description="URL of the Ray dashboard.")

    def to_json(self) -> dict[str, Any]:
        """The status as the API server keeps it: camelCase, what is absent left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class UnreadableStatus(Exception):
    """A status that these models can't read: attempts and usage are the record, so nothing may be decided without them."""


def parse_status(data: object) -> FineTuneJobStatus:
    """The status in an object of the API server; one that was never written is the default one. Raises UnreadableStatus."""
    try:
        return FineTuneJobStatus.model_validate(data or {}, by_alias=True, by_name=False)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UnreadableStatus(f"status.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def newest(items: Sequence[Item]) -> list[Item]:
    """The last items that a list of the status has room for."""
    return list(items[-LONGEST_LIST:])


def plan_status(
    plan: Plan,
    spec: FineTuneJobSpec,
    shape: ModelShape | None = None,
    data: DataShape | None = None,
    *,
    final: bool,
    prices: Prices = NO_PRICES,
) -> PlanStatus:
    """The plan's main numbers, of that spec and those shapes."""
    shape = shape or spec.model.shape
    return PlanStatus(
        final=final,
        device=plan.device,
        precision=plan.precision,
        world_size=min(plan.world_size, LARGEST_INTEGER),
        micro_batch_size=_within_64_bits(plan.micro_batch_size),
        global_batch_size=_within_64_bits(plan.global_batch_size),
        total_steps=_within_64_bits(plan.total_steps),
        memory_bytes=_within_64_bits(plan.memory.total_bytes if plan.memory else None),
        memory_capacity_bytes=_within_64_bits(plan.memory.capacity_bytes if plan.memory else None),
        checkpoint_bytes=_within_64_bits(plan.checkpoint_bytes),
        seconds=plan.seconds,
        gpu_hours=plan.gpu_hours,
        best_gpu_hours=plan.best_gpu_hours,
        cost=cost_of(plan, price_of(plan, prices)),
        flops_per_token=model_flops_per_token(spec, shape, data) if shape else None,
        peak_flops=flops_at_full_use(spec, plan),
        unknown=newest([shortened(f"{unknown.name}: {unknown.why}", LONGEST_MESSAGE) for unknown in plan.unknown]),
    )


def _within_64_bits(number: int | None) -> int | None:
    return None if number is None else min(number, LARGEST_INTEGER)


def eta_text(seconds: float) -> str:
    """Time left, for display.

    >>> [eta_text(seconds) for seconds in (42, 4320, 300000.5)]
    ['42s', '1h12m', '3d11h']
    """
    minutes = int(min(seconds, 1e12)) // 60
    if minutes == 0:
        return f"{int(seconds)}s"
    if minutes < 60:
        return f"{minutes}m"
    hours, days = minutes // 60, minutes // 1440
    return f"{hours}h{minutes % 60:02}m" if days == 0 else f"{days}d{hours % 24}h"


def figures_text(found: EvaluationStatus) -> str:
    """The figures of an evaluation, for display.

    >>> figures_text(EvaluationStatus(step=10, loss=1.5))
    'loss 1.5000 on held-out data at step 10'
    >>> arc = EvaluatedTask(task="arc", metric="acc", value=0.41, base=0.38, shots=25, documents=9)
    >>> figures_text(EvaluationStatus(step=10, tasks=[arc], judge=JudgedStatus(model="j", win_rate=0.6, low=0.4, high=0.7, prompts=40)))
    'step 10: arc acc 0.410 (base 0.380), judge j: wins 60 % (40 to 70) of 40 prompts'
    """
    if found.digest is None and not found.tasks and found.judge is None:
        return f"loss {found.loss:.4f} on held-out data at step {found.step}" if found.loss is not None else f"step {found.step}"
    parts = [f"loss {found.loss:.4f} on held-out data"] if found.loss is not None else []
    for task in found.tasks or []:
        base = f" (base {task.base:.3f})" if task.base is not None else ""
        parts.append(f"{task.task} {task.metric} " + (f"{task.value:.3f}{base}" if task.value is not None else "without a number"))
    if (judge := found.judge) is not None:
        low, high = judge.low * 100, judge.high * 100
        parts.append(f"judge {judge.model}: wins {judge.win_rate * 100:.0f} % ({low:.0f} to {high:.0f}) of {judge.prompts} prompts")
    return f"step {found.step}: {', '.join(parts) or 'done'}"
