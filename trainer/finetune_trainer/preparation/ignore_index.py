"""The label of a token that is not learnt: preparation writes it; the loss leaves it out, and knows nothing else of preparation."""

from typing import Final

# PyTorch's default for cross entropy.
IGNORE_INDEX: Final = -100
