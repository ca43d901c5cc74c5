"""`workers.minNodes`: the same job with fewer nodes, and what its plan comes to then. Pure.

A step has the same rows in the same order with any number of nodes; each worker takes more micro-steps for it.
"""

from collections.abc import Callable

from finetune_api.batch_size import micro_batch_size
from finetune_api.errors import InvalidSpec, Problem
from finetune_api.finetunejob import FineTuneJob
from finetune_api.fit import gib
from finetune_api.training_run import Plan


def with_nodes(job: FineTuneJob, nodes: int) -> FineTuneJob:
    """The job with exactly so many nodes."""
    workers = job.spec.workers.model_copy(update={"nodes": nodes, "min_nodes": None})
    return job.model_copy(update={"spec": job.spec.model_copy(update={"workers": workers})})


def divide(job: FineTuneJob, nodes: int, global_batch_size: int) -> bool:
    """Whether the workers of so many nodes share a step's rows in whole micro-batches."""
    spec = with_nodes(job, nodes).spec
    return global_batch_size % (micro_batch_size(spec, global_batch_size) * spec.workers.world_size) == 0


def with_fewest_nodes(job: FineTuneJob, planned: Callable[[FineTuneJob], Plan]) -> Plan:
    """The plan with workers.minNodes nodes. Raises InvalidSpec with what is wrong there."""
    fewest = job.spec.workers.min_nodes
    assert fewest is not None
    try:
        return planned(with_nodes(job, fewest))
    except InvalidSpec as refused:
        at = f"with {fewest} node{'s' if fewest > 1 else ''}"
        found = [(f"{at}, {one.field}: {one.message}", f"raise it, or {one.remedy}") for one in refused.problems]
        raise InvalidSpec([Problem("spec.workers.minNodes", told, remedy) for told, remedy in found]) from None


def told_of_fewest(plan: Plan, fewest: Plan) -> str:
    """What the plan comes to with workers.minNodes nodes, in a sentence."""
    workers = f"{fewest.world_size} worker{'s' if fewest.world_size > 1 else ''}"
    parts = [f"{workers}, {fewest.micro_steps} micro-steps a step in place of {plan.micro_steps}"]
    if fewest.memory is not None:
        of = f" of {gib(fewest.memory.capacity_bytes)}" if fewest.memory.capacity_bytes else ""
        parts.append(f"{gib(fewest.memory.total_bytes)}{of} GiB a worker")
    if plan.seconds and fewest.seconds:
        parts.append(f"{fewest.seconds / plan.seconds:.1f} times as long")
    return f"With {fewest.nodes} of {plan.nodes} nodes (workers.minNodes) the same steps take {', '.join(parts)}."
