"""training/startup_check.py: judged on values, and measured on ranks of a real process group, one of which is slow or wrong."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.trainer.distributed import run_distributed
from tests.trainer.training.test_training_rank import training_run

from finetune_api.errors import FaultyNode
from finetune_api.training_run import TrainingRun
from finetune_trainer.reporting.events import Event, NodesChecked, Notice
from finetune_trainer.training import startup_check
from finetune_trainer.training.startup_check import Measured, Pair, Size, check_start, judged, measured, multiplied, partners
from finetune_trainer.training.surroundings import Position

SMALL = Size(rows=64, products=2, seconds=0.0, elements=1024, sums=2)
SLOW_SECONDS = 0.1


# ---- judging


def ranks(nodes: int, workers: int = 1, **pairs: Any) -> list[Measured]:
    """All is well: every product takes 10 ms, every sum 5 ms."""
    return [
        Measured(
            node=node,
            host=f"w{node}",
            product_seconds=0.010,
            wrong=False,
            pairs=tuple(Pair(node=other, seconds=0.005, wrong=False) for other in partners(node, nodes)),
        )
        for node in range(nodes)
        for _ in range(workers)
    ]


def with_network(every: list[Measured], node: int, *, times: float = 1.0, wrong: bool = False) -> list[Measured]:
    """All pairs of the node are so many times as slow, or their sums are wrong, on both sides."""

    def of(one: Measured) -> Measured:
        touched = [one.node == node or pair.node == node for pair in one.pairs]
        found = [
            Pair(node=pair.node, seconds=pair.seconds * times, wrong=wrong) if bad else pair
            for pair, bad in zip(one.pairs, touched, strict=True)
        ]
        return replace(one, pairs=tuple(found))

    return [of(one) for one in every]


@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 7, 8, 13])
def test_where_all_is_well_nothing_is_told(nodes: int) -> None:
    every = ranks(nodes, workers=2)
    every[0] = replace(every[0], product_seconds=0.0125)
    assert judged(every, on_gpus=True) == startup_check.Verdict()


@pytest.mark.parametrize("nodes", [2, 3, 4, 5, 8, 13, 64])
def test_rounds_have_disjoint_pairs_and_every_node_has_one(nodes: int) -> None:
    pairs = {node: partners(node, nodes) for node in range(nodes)}
    assert all(pairs[node] for node in range(nodes))
    assert max(map(len, pairs.values())) == (nodes - 1).bit_length()
    for turn in range((nodes - 1).bit_length()):
        both = [{node, node ^ (1 << turn)} for node in range(nodes) if node ^ (1 << turn) in pairs[node]]
        assert all(one == other or not one & other for one in both for other in both)


def test_a_slow_device_is_told_and_avoided_and_the_attempt_goes_on() -> None:
    every = ranks(2, workers=2)
    every[3] = replace(every[3], product_seconds=0.02)
    found = judged(every, on_gpus=True)
    assert found.told == ("rank 3 on w1 takes 2.00 times as long as the median to multiply matrices",)
    assert (found.hosts, found.ends) == (("w1",), False)
    assert judged(every, on_gpus=False).hosts == (), "CPUs may be shared"


def test_a_device_at_less_than_a_third_ends_the_attempt() -> None:
    every = ranks(2, workers=2)
    every[1] = replace(every[1], product_seconds=0.031)
    assert judged(every, on_gpus=True).ends
    assert not judged(every, on_gpus=False).ends


@pytest.mark.parametrize("on_gpus", [True, False])
def test_a_wrong_product_ends_the_attempt(on_gpus: bool) -> None:
    every = ranks(2)
    every[1] = replace(every[1], wrong=True)
    found = judged(every, on_gpus=on_gpus)
    assert found.told == ("rank 1 on w1 multiplies matrices wrongly",)
    assert (found.hosts, found.ends) == (("w1",), True)


@pytest.mark.parametrize("nodes", [4, 5, 7, 8])
def test_a_slow_network_is_laid_to_the_node_all_of_whose_pairs_are_slow(nodes: int) -> None:
    for node in range(nodes):
        alone_with = [other for other in range(nodes) if partners(other, nodes) == [node]]
        found = judged(with_network(ranks(nodes, workers=2), node, times=3.0), on_gpus=True)
        assert set(found.hosts) == {f"w{one}" for one in (node, *alone_with)}, "who has no other pair can't be told apart"
        assert not found.ends


def test_of_two_nodes_nobody_knows_whose_network_is_slow() -> None:
    assert judged(with_network(ranks(2), 1, times=9.0), on_gpus=True).told == ()


def test_wrong_sums_are_laid_to_the_node_all_of_whose_sums_are_wrong() -> None:
    found = judged(with_network(ranks(4), 2, wrong=True), on_gpus=True)
    assert found.told == ("numbers that w2 adds up with w0, w3 are wrong",)
    assert (found.hosts, found.ends) == (("w2",), True)
    both = judged(with_network(ranks(2), 1, wrong=True), on_gpus=True)
    assert (both.hosts, both.ends) == (("w0", "w1"), True)


# ---- checking


class Others:
    """This rank, and what the others found."""

    def __init__(self, every: Sequence[Measured]) -> None:
        self.world_size, self._every = len(every), every

    def gathered(self, value: Any) -> list[Any]:
        return [value, *self._every[1:]]


def of_devices(run: TrainingRun, device: str) -> TrainingRun:
    return run.model_copy(update={"plan": run.plan.model_copy(update={"device": device, "precision": "fp32"})})


def checked(every: Sequence[Measured], position: Position, monkeypatch: pytest.MonkeyPatch, *, device: str = "cpu") -> list[Event]:
    told: list[Event] = []
    monkeypatch.setattr(startup_check, "measured", lambda *ignored, **also: every[0])
    check_start(of_devices(training_run(1, 1), device), Others(every), position, told.append)  # type: ignore[arg-type]
    return told


def test_one_machine_s_cpus_and_one_rank_are_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checked(ranks(1), Position(rank=0, node=0, worker=0, workers=1), monkeypatch, device="gpu") == []
    assert checked(ranks(1, workers=4), Position(rank=0, node=0, worker=0, workers=4), monkeypatch) == []


def test_gpus_of_one_machine_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    (event,) = checked(ranks(1, workers=4), Position(rank=0, node=0, worker=0, workers=4), monkeypatch, device="gpu")
    assert isinstance(event, NodesChecked)
    assert event.slow_hosts == []


def test_what_is_found_is_told_before_the_attempt_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    every: list[Measured] = ranks(2)
    told: list[Any] = []
    every[1] = replace(every[1], wrong=True)
    monkeypatch.setattr(startup_check, "measured", lambda *ignored, **also: every[0])
    with pytest.raises(FaultyNode, match=r"^the check at the start failed: rank 1 on w1 multiplies matrices wrongly; look at these"):
        check_start(of_devices(training_run(1, 1), "cpu"), Others(every), Position(rank=0, node=0, worker=0, workers=1), told.append)  # type: ignore[arg-type]
    assert told[0] == Notice(message="check at the start: rank 1 on w1 multiplies matrices wrongly")
    assert told[1].slow_hosts == ["w1"]


# ---- measuring


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_product_is_known_exactly(dtype: torch.dtype) -> None:
    seconds, wrong = multiplied(torch.device("cpu"), dtype, SMALL)
    assert seconds > 0
    assert not wrong


def slow_and_wrong(workers: int) -> Measured:
    """What this rank measures, where the second one is slow, multiplies wrongly and adds up wrongly."""
    rank, size = dist.get_rank(), dist.get_world_size()
    position = Position(rank=rank, node=rank // workers, worker=rank % workers, workers=workers)
    product, all_reduce = startup_check._product, dist.all_reduce

    def slow_product(left: torch.Tensor, right: torch.Tensor, made: torch.Tensor) -> None:
        time.sleep(SLOW_SECONDS)
        product(left, right, made)
        made[3, 5] += 1.0

    def wrong_sum(values: torch.Tensor, **others: Any) -> None:
        all_reduce(values, **others)
        values[7] += 1.0

    if rank == 1:
        startup_check._product, dist.all_reduce = slow_product, wrong_sum  # type: ignore[assignment]
    return measured(size, position, precision="float32", size=SMALL)


@pytest.mark.parametrize(("world_size", "workers"), [pytest.param(4, 1, marks=pytest.mark.thorough), (4, 2)])
def test_ranks_find_the_one_that_is_slow_and_wrong(world_size: int, workers: int) -> None:
    every: list[Measured] = run_distributed(slow_and_wrong, world_size, workers)
    assert [one.node for one in every] == [rank // workers for rank in range(world_size)]
    assert [[pair.node for pair in one.pairs] for one in every] == [partners(one.node, world_size // workers) for one in every]
    assert every[1].product_seconds >= SLOW_SECONDS
    assert [one.wrong for one in every] == [rank == 1 for rank in range(world_size)]
    assert [[pair.wrong for pair in one.pairs] for one in every] == [[rank == 1] * len(one.pairs) for rank, one in enumerate(every)]
    verdict = judged(every, on_gpus=True)
    assert verdict.ends
    assert any(text.startswith("rank 1 on ") for text in verdict.told)
