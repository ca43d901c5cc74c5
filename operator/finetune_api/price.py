"""What GPU hours cost: a price by GPU model, which a file or the chart gives.

In: text of YAML, `nvidia-a100-80gb: 2.21` a line, US dollars for an hour of one GPU. Out: a price or a cost; None where none is given.
"""

import math
from collections.abc import Mapping
from typing import Final

from finetune_api.accelerators import ACCELERATORS, accelerator, nearest_name
from finetune_api.errors import InvalidSpec, Problem
from finetune_api.training_run import Plan
from finetune_api.yaml_text import yaml_value

# US dollars an hour of one GPU, by GPU model as ACCELERATORS calls it.
Prices = Mapping[str, float]

NO_PRICES: Final[Prices] = {}
_MOST: Final = 1000.0


def parse_prices(text: str, where: str) -> Prices:
    """The table in a YAML text. Raises InvalidSpec with every problem, `where` before each name."""
    data = yaml_value(text, where) if text.strip() else {}
    if not isinstance(data, dict):
        raise InvalidSpec(
            [Problem(where, "holds no mapping", "write a GPU model and dollars an hour in each line: nvidia-a100-80gb: 2.21")]
        )
    found: dict[str, float] = {}
    problems = []
    for name, value in data.items():
        card = accelerator(str(name))
        if card is None:
            like = nearest_name(str(name))
            remedy = f"did you mean {like}?" if like else f"known are {', '.join(known.name for known in ACCELERATORS)}"
            problems.append(Problem(f"{where}: {name}", "is not a GPU model that we know", remedy))
        elif isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and 0 <= value <= _MOST):
            problems.append(Problem(f"{where}: {name}", f"{value!r} is no price", f"use dollars for an hour of one GPU, 0 to {_MOST:g}"))
        elif card.name in found:
            problems.append(Problem(f"{where}: {name}", f"{card.name} has a price already", "give each model one"))
        else:
            found[card.name] = float(value)
    if problems:
        raise InvalidSpec(problems)
    return found


def price_of(plan: Plan, prices: Prices) -> float | None:
    """Of an hour of one GPU of that plan; None without GPUs, and where none is given."""
    return prices.get(plan.accelerator) if plan.accelerator is not None else None


def cost_of(plan: Plan, price: float | None) -> float | None:
    """Of all that the plan holds GPUs for; None where price or time is unknown."""
    return None if price is None or plan.gpu_hours is None else price * plan.gpu_hours
