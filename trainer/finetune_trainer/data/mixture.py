"""Which dialogues of the sources are used, how often, and on which side of the split.

In: parsed rows, or the names of trees. Out: choices that are pure functions of (seed, tree), so that neither the order of the
rows nor the number of processes changes them, and that always move a whole conversation tree.
"""

from collections.abc import Generator, Iterable, Iterator
from hashlib import blake2b
from itertools import islice
from math import floor

from finetune_api.errors import InvalidData
from finetune_trainer.data.dialogues import Dropped, Parsed

NAMED_ROWS = 5  # how many invalid rows a refusal names
ROWS_AHEAD = 10_000  # how far it reads on to find them


def within_limit(items: Iterable[Parsed | Dropped], max_invalid_rows: int) -> Iterator[Parsed | Dropped]:
    """`items` as they are. Raises InvalidData at invalid row number `max_invalid_rows` + 1, naming the first few."""
    items = iter(items)
    invalid: list[Dropped] = []
    count = 0
    for item in items:
        if isinstance(item, Dropped) and item.kind == "invalid":
            count += 1
            if len(invalid) < NAMED_ROWS:
                invalid.append(item)
            if count > max_invalid_rows:
                ahead = (next_item for next_item in islice(items, ROWS_AHEAD) if isinstance(next_item, Dropped))
                more = (dropped for dropped in ahead if dropped.kind == "invalid")
                named = invalid + list(islice(more, NAMED_ROWS - len(invalid)))
                if isinstance(items, Generator):
                    items.close()  # what is told of the rows comes before the refusal
                raise InvalidData(too_many(named, max_invalid_rows))
        yield item


def too_many(invalid: list[Dropped], limit: int) -> str:
    """The message of a refusal: the rows, then what to do."""
    lines = [f"{dropped.source} row {dropped.row}: {dropped.reason}" for dropped in invalid]
    allowed = "no row may be wrong" if limit == 0 else f"more than {limit} rows are wrong"
    return "\n".join([*lines, f"{allowed} (spec.dataset.maxInvalidRows={limit}); correct them, or raise maxInvalidRows to drop them"])


def limited(items: Iterable[Parsed | Dropped], limit: int | None) -> Iterator[Parsed | Dropped]:
    """`items` up to and with dialogue number `limit`; the rest is not read."""
    count = 0
    for item in items:
        yield item
        count += not isinstance(item, Dropped)
        if count == limit:
            return


def copies(trees: Iterable[str], weight: float, seed: int) -> dict[str, int]:
    """How often each tree of a source is used: every tree floor(weight) times, and a seeded share of them once more.

    >>> sorted(copies(["a", "b", "c", "d"], 2.5, seed=1).values())
    [2, 2, 3, 3]
    """
    order = _seeded_order(trees, f"weight:{seed}")
    whole = floor(weight)
    once_more = round((weight - whole) * len(order))
    return {tree: whole + (position < once_more) for position, tree in enumerate(order)}


def held_out(trees: Iterable[str], fraction: float, seed: int) -> frozenset[str]:
    """The trees for evaluation: round(fraction x trees) of them, at least one, and at least one is left to train on.

    >>> len(held_out([f"tree {number}" for number in range(40)], 0.1, seed=42))
    4
    """
    order = _seeded_order(trees, f"evaluation:{seed}")
    if len(order) < 2:
        raise InvalidData(
            f"{len(order)} conversation tree can't be divided into training and evaluation; "
            "add data, or remove spec.dataset.evaluation.fraction"
        )
    return frozenset(order[: min(max(round(fraction * len(order)), 1), len(order) - 1)])


def _seeded_order(trees: Iterable[str], salt: str) -> list[str]:
    """The distinct trees, in an order that depends on nothing but their names and `salt`."""
    key = salt.encode()[:64]
    # surrogatepass: a tree's name may come from any JSON string.
    return sorted(set(trees), key=lambda tree: (blake2b(tree.encode("utf-8", "surrogatepass"), key=key, digest_size=16).digest(), tree))
