"""The size that attempts run with: as the spec says, or smaller where that didn't go. Pure.

In: the job and what the status remembers. Out: the job as the next attempt runs it, which is planned, frozen and made into a RayJob
like any other. Steps and their rows are the same at any size, and so is the run's identity. When nodes come and go is `resizing`'s.
"""

from finetune_api.batch_size import halved
from finetune_api.checks import device
from finetune_api.finetunejob import FineTuneJob
from finetune_api.status import AdjustedStatus, AttemptStatus, FineTuneJobStatus
from finetune_operator.failures import Ending


def attempted(job: FineTuneJob, status: FineTuneJobStatus) -> FineTuneJob:
    """The job as its next attempt runs it, or as the one that runs does."""
    adjusted, spec = status.adjusted or AdjustedStatus(), job.spec
    micro = adjusted.micro_batch_size
    if micro is not None and micro < spec.training.micro_batch_size and spec.failure_policy.halve_micro_batch_size:
        spec = spec.model_copy(update={"training": spec.training.model_copy(update={"micro_batch_size": micro})})
    if is_smaller(job, status) and not adjusted.growing:
        spec = spec.model_copy(update={"workers": spec.workers.model_copy(update={"nodes": adjusted.nodes})})
    return job if spec is job.spec else job.model_copy(update={"spec": spec})


def is_smaller(job: FineTuneJob, status: FineTuneJobStatus) -> bool:
    """Whether fewer nodes than the spec's are remembered, as many as it allows."""
    workers, nodes = job.spec.workers, status.adjusted.nodes if status.adjusted else None
    return nodes is not None and workers.min_nodes is not None and workers.min_nodes <= nodes < workers.nodes


def after_memory(job: FineTuneJob, status: FineTuneJobStatus, attempt: AttemptStatus, ending: Ending) -> tuple[AdjustedStatus | None, str]:
    """What the status remembers after an attempt that ended so, and what is told of it; empty where no memory ran out.

    What the kernel ends for its pod's memory is helped by fewer rows only where that memory holds the ranks' activations: on CPUs.
    """
    if ending.out_of_memory is None or (ending.out_of_memory == "pod" and device(job.spec) == "gpu"):
        return status.adjusted, ""
    ran = attempt.micro_batch_size
    if ran is None or not job.spec.failure_policy.halve_micro_batch_size:
        return status.adjusted, ""
    if (fewer := halved(ran)) is None:
        return status.adjusted, "a micro-step has 1 row already; see `finetune plan` for settings that need less"
    told = f"attempts run with {_rows(fewer)} a micro-step in place of {ran} from now on, and with the same steps"
    adjusted = status.adjusted or AdjustedStatus()
    return adjusted.model_copy(update={"micro_batch_size": fewer, "message": f"attempt {attempt.number} ran out of memory: {told}"}), told


def without_nodes(adjusted: AdjustedStatus) -> AdjustedStatus | None:
    """What is left to remember once attempts have all of workers.nodes."""
    micro = adjusted.micro_batch_size
    if micro is None:
        return None
    return AdjustedStatus(micro_batch_size=micro, message=f"an attempt ran out of memory: attempts run with {_rows(micro)} a micro-step")


def _rows(count: int) -> str:
    return f"{count} rows" if count > 1 else "1 row"
