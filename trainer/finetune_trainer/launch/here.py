"""The workers of a run on this machine: processes of ours, or Ray's where its dashboard is asked for."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_api.engines import engine_name
from finetune_api.finetunejob import Training
from finetune_api.training_run import Plan, TrainingRun
from finetune_trainer.launch.driver import Workers
from finetune_trainer.launch.local_workers import local_workers, warm
from finetune_trainer.launch.ray_session import local_ray
from finetune_trainer.launch.ray_workers import RayWorkers
from finetune_trainer.launch.warm import modules_of_ranks
from finetune_trainer.machine import this_machine
from finetune_trainer.reporting.events import Event, Notice
from finetune_trainer.training.places import Places


def warm_up(model_type: str, training: Training, plan: Plan) -> None:
    """Begin to import what ranks of a family of models will need, where they are forked: on the CPU."""
    if plan.device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed would look for another, and say so
        warm(modules_of_ranks(model_type, engine_name(training, plan.world_size)))


@contextmanager
def workers_here(
    run: TrainingRun, places: Places, *, attempt: str, logs: Path, dashboard: bool, tell: Callable[[Event], None]
) -> Iterator[Workers]:
    """The run's workers, gone after the block. Logs of a run that fails are copied to `logs`."""
    machine = this_machine()
    if not dashboard:
        with local_workers(run, places, attempt=attempt, cpus=machine.cpus, logs=logs) as workers:
            yield workers
        return
    tell(Notice(message="starting Ray and its dashboard, which takes about a minute on two cores"))
    cpus = max(machine.cpus, run.plan.world_size)
    with local_ray(num_cpus=cpus, num_gpus=machine.gpus or 0, dashboard=True, logs=logs) as address:
        tell(Notice(message=f"Ray dashboard: {address}"))
        yield RayWorkers(run, places, attempt=attempt)
