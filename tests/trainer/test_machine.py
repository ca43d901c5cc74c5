"""finetune_trainer/machine.py"""

import pytest
from tests.api.jobs import mapping

from finetune_api.finetunejob import FineTuneJob
from finetune_api.jobfile import parse_job
from finetune_trainer.machine import ThisMachine, with_workers_of


def job(**workers: object) -> FineTuneJob:
    found = mapping()
    found["spec"].pop("workers")
    return parse_job({**found, "spec": {**found["spec"], **({"workers": workers} if workers else {})}})


@pytest.mark.parametrize(("gpus", "expected"), [(0, ("cpu", 0, 1)), (2, ("gpu", 2, 2)), (None, ("cpu", 0, 1))])
def test_without_workers_a_job_takes_what_the_machine_has(gpus: int | None, expected: tuple[str, int, int]) -> None:
    workers = with_workers_of(ThisMachine(cpus=4, gpus=gpus), job()).spec.workers
    assert (workers.device, workers.gpus_per_node, workers.world_size) == expected


def test_workers_that_are_given_stay() -> None:
    given = job(nodes=2)
    assert with_workers_of(ThisMachine(cpus=4, gpus=1), given) is given
