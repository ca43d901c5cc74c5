"""Reasons of conditions: one CamelCase word for each thing that the operator can tell of a job.

The operator writes them; users, alerts and tests match on them, so a word never changes its meaning. Failures that come from
pods carry the class name of their error (`finetune_api.errors`) and are repeated here.
"""

from enum import StrEnum


class Reason(StrEnum):
    """Every reason. The comments say when the operator writes it."""

    # ---- any stage
    SUSPENDED = "Suspended"  # spec.suspend is true, and nothing runs; Suspended=True, and the stage that rests is False
    NOT_REQUESTED = "NotRequested"  # the spec doesn't ask for this stage: True
    WAITING = "Waiting"  # a former stage is not done yet: False
    NAME_TAKEN = "NameTaken"  # an object of the name that we need belongs to someone else: False and Stalled, naming it
    FORBIDDEN = "Forbidden"  # the API server refuses the operator an action: False and Stalled, with its words
    QUEUED = "Queued"  # False: someone else suspended the Job or RayJob, as Kueue does until there is quota; the message has its words
    DEACTIVATED = "Deactivated"  # False and Stalled: Kueue has given the Job or RayJob up; the message says what to do
    EVICTED = "Evicted"  # False and Failed: nodes evicted the pod of a stage's Job too often; the message has their words
    PODS_WAIT = "PodsWait"  # Stalled: pods can't start, or have waited for long; the message has the scheduler's or the kubelet's words
    REJECTED = "Rejected"  # the API server refuses what we make (quota, policy, validation): False, tried again; by a dry run Stalled

    # ---- Planned
    PLANNED = "Planned"  # True: the numbers fit as far as they are known
    INVALID_DEFAULTS = "InvalidDefaults"  # False and Stalled: the namespace's ConfigMap of defaults is wrong; looked at again each minute
    INVALID_SPEC = "InvalidSpec"  # False and Stalled: refused by the models or by planning; a change of the spec mends it

    # ---- Prepared
    PREPARED = "Prepared"  # True: the run is frozen
    PREPARING = "Preparing"  # False: the preparation pod was made; the message says what it waits for, if it doesn't run
    PREPARATION_FAILED = "PreparationFailed"  # False: the pod failed and said nothing that we understand; Failed when its tries are used up
    RESULT_UNREADABLE = "ResultUnreadable"  # False and Failed: the pod ended well, but its termination message is not a PodResult
    # From the pod, until spec or retry changes.
    INVALID_DATA = "InvalidData"  # False and Failed: a row or a whole source is wrong; the message has source and row
    INVALID_MODEL = "InvalidModel"  # False and Failed: no such model, or its licence isn't accepted; the message has the link
    INVALID_STORAGE = "InvalidStorage"  # False and Failed: the bucket isn't there, or the keys may not write to it
    INVALID_PUBLICATION = "InvalidPublication"  # False and Failed: the token may not write to the repository
    INVALID_TRAINING_RUN = "InvalidTrainingRun"  # False and Failed: run.json is of another version than the image reads
    RUN_CONFLICT = "RunConflict"  # False and Failed: the storage is another job's, or model or data changed since
    RESULT_TOO_LARGE = "ResultTooLarge"  # False and Failed: what preparation found is longer than a termination message may be
    # From the pod, tried again.
    STORAGE_FAILED = "StorageFailed"  # False, tried again: the storage did not answer, or not as it should
    UNEXPECTED = "Unexpected"  # False, tried again: a fault that nobody foresaw; the message has its words

    # ---- Trained
    TRAINED = "Trained"  # True: the last attempt finished
    KUBERAY_ABSENT = "KubeRayAbsent"  # False and Stalled: there is no RayJob kind; the job starts when there is
    KUBERAY_FORBIDDEN = "KubeRayForbidden"  # False and Stalled: the operator may not read or make RayJobs
    KUBERAY_TOO_OLD = "KubeRayTooOld"  # False and Stalled: RayJob lacks a field that we need
    STARTING = "Starting"  # False: an attempt is entered and not all of its pods run; the message has the scheduler's words
    TRAINING = "Training"  # False: all pods run
    STOPPING = "Stopping"  # False: the driver was asked to commit a checkpoint and stop
    BACKING_OFF = "BackingOff"  # False: an attempt ended; the message says why and when the next begins
    WORKER_PREEMPTED = "WorkerPreempted"  # from the driver: a worker's node or pod was taken away; not charged
    WORKER_LOST = "WorkerLost"  # from the driver: a worker's node or pod went away without a word; not charged after a checkpoint
    NO_PROGRESS = "NoProgress"  # no step for too long; not charged after a checkpoint. Stalled: ten attempts in a row without one
    FAULTY_NODE = "FaultyNode"  # from the driver: a node computes wrongly or far too slowly, and is avoided; not charged
    OUT_OF_MEMORY = "OutOfMemory"  # a rank or a pod ran out of memory; a rank's next attempt has half the micro-batch
    NON_FINITE_LOSS = "NonFiniteLoss"  # from the driver: a step's loss or gradient isn't finite; Failed at the same step again
    TRAINING_FAILED = "TrainingFailed"  # from the driver: a worker died; also when nothing was reported
    TOO_MANY_FAILED_STARTS = "TooManyFailedStarts"  # False and Failed: in more attempts in a row than maxFailedStarts not all pods ran
    TOO_MANY_ATTEMPTS_WITHOUT_PROGRESS = "TooManyAttemptsWithoutProgress"  # False and Failed: others ended too many before a checkpoint
    TOO_MANY_FAILURES = "TooManyFailures"  # False and Failed: more charged failures than failurePolicy.maxFailures
    DEADLINE_EXCEEDED = "DeadlineExceeded"  # any stage False and Failed: budget.activeDeadlineSeconds, or its stage's, has passed
    BUDGET_EXCEEDED = "BudgetExceeded"  # False and Failed: budget.gpuHours is used up; attempts are asked for a checkpoint first
    # Why an attempt ended that isn't charged.
    PREEMPTED = "Preempted"  # Kueue or the scheduler took the GPUs, or the node was drained
    NODE_LOST = "NodeLost"  # a pod or its node is gone or no longer answers; the message names both
    RAYJOB_DELETED = "RayJobDeleted"  # somebody deleted the RayJob or its RayCluster
    START_DEADLINE_EXCEEDED = "StartDeadlineExceeded"  # not all pods ran within workers.startDeadlineSeconds; Stalled after three in a row
    SUBMITTER_LOST = "SubmitterLost"  # the pod that hands the driver to Ray failed or was taken, and KubeRay ended the RayJob for it
    STOP_REQUESTED = "StopRequested"  # suspended, and stopped with a checkpoint
    FINISHED = "Finished"  # all steps are done
    STOPPED_EARLY = "StoppedEarly"  # from the driver: training is done before its last step, by evaluation.earlyStopping

    # ---- Evaluated
    EVALUATED = "Evaluated"  # True: there is an evaluation of the newest checkpoint
    EVALUATING = "Evaluating"  # False: the evaluation pod was made, or waits for the GPUs of training
    EVALUATION_FAILED = "EvaluationFailed"  # False: the pod failed and said nothing; Failed where publish.gate needs what it measures

    # From the pod, until spec or retry changes.
    INVALID_ENDPOINT = "InvalidEndpoint"  # False: the judge's endpoint refuses the address, the key or the model; the message has its words
    UNKNOWN_TASK = "UnknownTask"  # False, of Prepared before training: evaluation.tasks names one that nobody defines
    NO_SANDBOX = "NoSandbox"  # False: the node can't confine a model's code, which a task runs; the message has the remedy
    NOT_INSTALLED = "NotInstalled"  # False: the image lacks a package that a task needs
    # From the pod, tried again.
    ENDPOINT_FAILED = "EndpointFailed"  # False: the judge's endpoint is down, overloaded, or answers what can't be used
    BUDGET_SPENT = "BudgetSpent"  # False: the judge has taken evaluation.judge.maxTokens

    # ---- Published
    PUBLISHED = "Published"  # True: the model is there, verified file by file
    PUBLISHING = "Publishing"  # False: the publication pod was made
    GATE_CLOSED = "GateClosed"  # False and Failed: publish.gate refuses the model; nothing was published
    PUBLICATION_FAILED = "PublicationFailed"  # from the pod, or when it said nothing: False; Failed when its tries are used up

    # ---- Succeeded, Failed
    SUCCEEDED = "Succeeded"  # Succeeded=True and Reconciling=False: every stage is True
    NOT_FINISHED = "NotFinished"  # Succeeded=False, Failed=False: it goes on

    # ---- Suspended=False
    NOT_SUSPENDED = "NotSuspended"

    # ---- Reconciling, Stalled (kstatus)
    IN_PROGRESS = "InProgress"  # Reconciling=True
    STALLED = "Stalled"  # Reconciling=False: it needs a person, Stalled says for what
    NOT_STALLED = "NotStalled"  # Stalled=False
