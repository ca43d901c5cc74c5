"""Where a dialogue that is longer than a row is divided: at turns, so that each answer is taught exactly once.

In: the roles of the turns, which answers are to be taught, and the length of any stretch. Out: stretches. A later one repeats as
many turns before its first new answer as fit. The system message, which every stretch carries, is in the lengths already.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Turns start..stop (not included), of which the answers from `first_taught` on are new."""

    start: int
    stop: int
    first_taught: int
    fits: bool  # False: one answer, longer than a row all by itself


def pieces(
    roles: Sequence[str], taught: Sequence[int], length: Callable[[int, int], int], max_length: int, alone: bool = True
) -> list[Piece]:
    """`length(start, stop)` is in tokens. `alone` allows an answer without its question, where the two don't fit together.

    >>> turn_lengths = [3, 4, 3, 4, 3, 4]
    >>> found = pieces(["user", "assistant"] * 3, [1, 3, 5], lambda start, stop: sum(turn_lengths[start:stop]), 15)
    >>> [(piece.start, piece.stop, piece.first_taught) for piece in found]
    [(0, 4, 1), (2, 6, 5)]
    """

    def fits(start: int, stop: int) -> bool:
        return length(start, stop) <= max_length

    found: list[Piece] = []
    waiting = deque(taught)
    while waiting:
        first = waiting.popleft()
        start = first - 1 if first and roles[first - 1] == "user" else first
        if not fits(start, first + 1):
            start = first
            if not (alone and fits(start, first + 1)):
                found.append(Piece(start=start, stop=first + 1, first_taught=first, fits=False))
                continue
        stop = first + 1
        while waiting and fits(start, waiting[0] + 1):
            stop = waiting.popleft() + 1
        # A stretch begins with a question; one whose question didn't fit has no room for what came before it either.
        while roles[start] == "user" and start >= 2 and fits(start - 2, stop):
            start -= 2
        found.append(Piece(start=start, stop=stop, first_taught=first, fits=True))
    return found
