"""FineTuneJob.status.attempts and .usage: each attempt at training with its pods and its end, and what all of them used."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.conditions import NEWER_WORDS, StatusItem, StatusModel, Time
from finetune_api.finetunejob import Natural, Positive
from finetune_api.status.types import MOST_NODES, MOST_PODS, Digest, LastLines, Name, NotNegative, Text, Word


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


class RestartsStatus(StatusItem):
    """Starts in place of an attempt's workers: in the same RayJob, by the same driver, after workers had ended without a word."""

    count: Natural = Field(default=0, description="How often its workers run again.")
    charged: Natural = Field(default=0, description="Those that count against failurePolicy.maxFailures.")
    since: Time | None = Field(default=None, description="While they are to start again: since when.")
    reason: Word | None = Field(default=None, description="Why they had ended, the last time.")
    message: Text | None = Field(default=None, description="What is known of that.")
    node: Name | None = Field(default=None, description="Node of the first worker that was gone then.")


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
    restarts: RestartsStatus | None = Field(default=None, description="How often its workers started again in place; absent: never.")
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
