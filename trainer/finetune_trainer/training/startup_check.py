"""Before an attempt takes hours: does every device multiply rightly and as fast as the others, and every node's network?

Each device multiplies matrices of small whole numbers, whose product is known exactly, for some seconds. Then nodes add numbers up in
pairs, in at most log2(n) rounds whose pairs are disjoint: node i with node i xor 1, 2, 4, ... A node is judged by its best pair, since one
slow node makes all of its pairs slow. What is found is compared with the median, so that no table of devices is needed.

Ranks of one machine's CPUs share them, and one rank has nobody to be compared with: they are not checked.
"""

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, median_low
from typing import TYPE_CHECKING, Any, Final

from finetune_api.errors import FaultyNode
from finetune_trainer.reporting.events import Event, NodesChecked, Notice
from finetune_trainer.training.spread import SLOW
from finetune_trainer.training.surroundings import Position

if TYPE_CHECKING:  # `make test-gpu` multiplies on machines without pydantic
    import torch

    from finetune_api.training_run import TrainingRun
    from finetune_trainer.training.collectives import Ranks

# All ranks wait for the slowest in every layer: at a third of the speed two thirds of every GPU hour would be lost, which costs more than
# a new start after minutes, and no device that works is so slow. Anything below that is told, and avoided by the next attempt.
TOO_SLOW: Final = 3.0
# Of a network: pairs of nodes are differently far apart.
SLOW_NETWORK: Final = 2.0
# Whole numbers that the matrices repeat. Sums of their products are whole, and small enough for 16 bits.
_LEFT, _RIGHT = (1, -1, 2, 0, -2, 1, 0, 2), (2, 1, 0, -1, 1, -2, 1, 0)
_PERIOD: Final = len(_LEFT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Square matrices of so many rows, multiplied for so many seconds in spans of `products`; so many elements, added up `sums` times."""

    rows: int
    products: int
    seconds: float
    elements: int
    sums: int


# Long enough for a GPU to get warm; 32 MiB a sum, which 1 Gb/s moves in half a second.
ON_GPU: Final = Size(rows=4096, products=50, seconds=5.0, elements=2**23, sums=5)
ON_CPU: Final = Size(rows=128, products=5, seconds=0.05, elements=2**16, sums=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What adding up with the same worker of another node took, and whether the sum was wrong."""

    node: int
    seconds: float
    wrong: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a rank found."""

    node: int
    host: str
    product_seconds: float
    wrong: bool
    pairs: tuple[Pair, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`told`: a sentence for each finding. `hosts`: those to be avoided. `ends`: whether the attempt would be worth nothing."""

    told: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    ends: bool = False


def check_start(run: "TrainingRun", ranks: "Ranks", position: Position, tell: Callable[[Event], None]) -> None:
    """Measure and judge, where there is something to compare. Collective. Raises FaultyNode where the attempt would be worth nothing."""
    gpu = run.plan.device == "gpu"
    if ranks.world_size == 1 or not (gpu or ranks.world_size > position.workers):
        return
    from finetune_trainer.model.precision import DTYPE_NAMES

    began = time.monotonic()
    found = measured(
        ranks.world_size, position, precision=DTYPE_NAMES[run.plan.precision] if gpu else "float32", size=ON_GPU if gpu else ON_CPU
    )
    verdict = judged(ranks.gathered(found), on_gpus=gpu)
    for text in verdict.told:
        tell(Notice(message=f"check at the start: {text}"))
    tell(NodesChecked(seconds=time.monotonic() - began, slow_hosts=list(verdict.hosts)))
    # Once all of it is told: the first rank that fails ends the others.
    ranks.gathered(None)
    if verdict.ends:
        raise FaultyNode(f"the check at the start failed: {'; '.join(verdict.told)}; look at these nodes. The next attempt avoids them")


def judged(every: Sequence[Measured], *, on_gpus: bool) -> Verdict:
    """What all ranks found, compared. On CPUs, which others may use too, what is slow is told and not avoided."""
    told: list[str] = []
    slow: list[str] = []
    wrong: list[str] = []
    middle = median_low([one.product_seconds for one in every])
    ratios = [one.product_seconds / middle for one in every]
    for rank, (one, ratio) in enumerate(zip(every, ratios, strict=True)):
        if one.wrong:
            told.append(f"rank {rank} on {one.host} multiplies matrices wrongly")
            wrong.append(one.host)
        elif ratio >= SLOW:
            told.append(f"rank {rank} on {one.host} takes {ratio:.2f} times as long as the median to multiply matrices")
            slow.append(one.host)
    hosts = {one.node: one.host for one in every}
    for node, wrong_with in _wrong_sums(every).items():
        told.append(f"numbers that {hosts[node]} adds up with {', '.join(hosts[other] for other in wrong_with)} are wrong")
        wrong.append(hosts[node])
    for node, ratio in _network(every).items():
        if ratio >= SLOW_NETWORK:
            told.append(f"the network of {hosts[node]} takes {ratio:.2f} times as long as the median's")
            slow.append(hosts[node])
    avoided = [*wrong, *slow] if on_gpus else wrong
    too_slow = on_gpus and max(ratios) >= TOO_SLOW
    return Verdict(told=tuple(told), hosts=tuple(dict.fromkeys(avoided)), ends=bool(wrong) or too_slow)


def _wrong_sums(every: Sequence[Measured]) -> dict[int, list[int]]:
    """Nodes whose sums were all wrong, with the others. Of two nodes alone nobody knows whose fault it is."""
    by_node = _pairs(every)
    found = {node: pairs for node, pairs in by_node.items() if pairs and all(pair.wrong for pair in pairs)}
    some = {node for node, pairs in by_node.items() if any(pair.wrong for pair in pairs)}
    chosen = found or {node: [pair for pair in by_node[node] if pair.wrong] for node in some}
    return {node: sorted({pair.node for pair in pairs}) for node, pairs in chosen.items()}


def _network(every: Sequence[Measured]) -> dict[int, float]:
    """Of each node, how many times the median's time its best pair takes, in the slowest of its workers; with three nodes or more."""
    times: dict[int, dict[int, float]] = {}
    for node, pairs in _pairs(every).items():
        for pair in pairs:
            of_node = times.setdefault(node, {})
            of_node[pair.node] = max(pair.seconds, of_node.get(pair.node, 0.0))
    best = {node: min(of_node.values()) for node, of_node in times.items()}
    if len(best) < 3:
        return {}
    middle = median_low(best.values())
    return {node: seconds / middle for node, seconds in best.items()}


def _pairs(every: Sequence[Measured]) -> dict[int, list[Pair]]:
    found: dict[int, list[Pair]] = {}
    for one in every:
        found.setdefault(one.node, []).extend(one.pairs)
    return found


def partners(node: int, nodes: int) -> list[int]:
    """The other node of each round.

    >>> [partners(node, 4) for node in range(4)]
    [[1, 2], [0, 3], [3, 0], [2, 1]]
    >>> [partners(node, 3) for node in range(3)]
    [[1, 2], [0], [0]]
    """
    rounds = (nodes - 1).bit_length()
    return [other for turn in range(rounds) if (other := node ^ (1 << turn)) < nodes]


def measured(world_size: int, position: Position, *, precision: str, size: Size) -> Measured:
    """What this rank's device and network do. Collective: the ranks of a node follow one another, as many on each."""
    import torch

    from finetune_trainer.training.collectives import rank_device

    device, nodes = rank_device(), world_size // position.workers
    seconds, wrong = multiplied(device, getattr(torch, precision), size)
    pairs = tuple(
        _added(device, [one * position.workers + position.worker for one in sorted((position.node, other))], other, size)
        for other in partners(position.node, nodes)
    )
    return Measured(node=position.node, host=socket.gethostname(), product_seconds=seconds, wrong=wrong, pairs=pairs)


def multiplied(device: "torch.device", dtype: "torch.dtype", size: Size) -> tuple[float, bool]:
    """Seconds of a product, in the median of the spans, and whether any differs from what is known."""
    import torch

    index = torch.arange(size.rows, device=device)
    repeated = (index[:, None] + index[None, :]) % _PERIOD
    left, right = (torch.tensor(values, device=device, dtype=dtype)[repeated] for values in (_LEFT, _RIGHT))
    known = torch.tensor(_known(size.rows), device=device, dtype=dtype)
    made, wrong = torch.empty_like(left), torch.zeros((), dtype=torch.bool, device=device)
    spans: list[float] = []
    _product(left, right, made)  # kernels are loaded, or chosen
    _wait_for(device)
    deadline = time.perf_counter() + size.seconds
    while not spans or time.perf_counter() < deadline:
        began = time.perf_counter()
        for _ in range(size.products):
            _product(left, right, made)
        _wait_for(device)
        spans.append((time.perf_counter() - began) / size.products)
        blocks = made.view(size.rows // _PERIOD, _PERIOD, size.rows // _PERIOD, _PERIOD)
        wrong |= (blocks != known[None, :, None, :]).any()
    return median(spans), bool(wrong)


def _known(rows: int) -> list[list[int]]:
    """The product's first rows and columns, which the others repeat."""
    span = range(_PERIOD)
    return [[rows // _PERIOD * sum(_LEFT[(i + k) % _PERIOD] * _RIGHT[(k + j) % _PERIOD] for k in span) for j in span] for i in span]


def _product(left: "torch.Tensor", right: "torch.Tensor", made: "torch.Tensor") -> None:
    import torch

    torch.mm(left, right, out=made)


def _added(device: "torch.device", both: Sequence[int], node: int, size: Size) -> Pair:
    """Add up with the rank that is with this one in `both`: the median of the times, without the first, which connects."""
    import torch
    import torch.distributed as dist

    group: Any = dist.new_group(list(both), use_local_synchronization=True)
    own = torch.arange(size.elements, device=device, dtype=torch.float32).remainder_(_PERIOD)
    times, wrong = [], False
    for _ in range(1 + size.sums):
        values = own + dist.get_rank()
        _wait_for(device)
        began = time.perf_counter()
        dist.all_reduce(values, group=group)
        _wait_for(device)
        times.append(time.perf_counter() - began)
        wrong = wrong or not torch.equal(values, 2.0 * own + float(sum(both)))
    dist.destroy_process_group(group)
    return Pair(node=node, seconds=median(times[1:]), wrong=wrong)


def _wait_for(device: "torch.device") -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
