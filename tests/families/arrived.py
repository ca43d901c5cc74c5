"""How a family arrived. Imports nothing, so that the page can be written without torch."""

from dataclasses import dataclass

STEPS = 3
EQUAL = 1e-5  # of the range of the logits: what is left is rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """How far apart the logits are, relative to their range; `moved`: how far training moved them; `losses`: of each step."""

    packed: bool
    apart: float
    moved: float
    losses: tuple[float, ...]

    @property
    def is_right(self) -> bool:
        """Trained, and the same in plain Transformers."""
        return self.apart <= EQUAL < self.moved
