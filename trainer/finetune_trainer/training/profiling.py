"""A trace of some optimizer steps by torch's profiler, a file a rank, as Perfetto reads it. Only `finetune run --profile` asks for it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.errors import InvalidSpec, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Which steps, counted from 1 and the last one included, and the folder of the traces."""

    first: int
    last: int
    folder: str

    def file(self, rank: int) -> Path:
        """A rank's trace."""
        return Path(self.folder) / f"steps-{self.first}-{self.last}-rank-{rank}.json"


def steps_of(text: str) -> tuple[int, int]:
    """The first and the last step that are asked for. Raises ValueError, with what to write.

    >>> steps_of("10-12"), steps_of("3")
    ((10, 12), (3, 3))
    """
    found = re.fullmatch(r"([1-9]\d*)(?:-([1-9]\d*))?", text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if last < first:
        raise ValueError(f"{text!r} is no span of steps; write the first and the last, counted from 1, such as 10-12")
    return first, last


def profile_of(span: tuple[int, int], *, done: int, total_steps: int, folder: Path) -> Profile:
    """A trace of steps that are still to come. Raises InvalidSpec where they are not all among those."""
    first, last = span
    if not (done < first and last <= total_steps):
        raise InvalidSpec(
            [Problem("--profile", f"{first}-{last} is not all among steps {done + 1} to {total_steps}", "choose some of these")]
        )
    return Profile(first=first, last=last, folder=str(folder))


class StepProfiler:
    """Follows a rank's steps; without a profile it does nothing."""

    def __init__(self, profile: Profile | None, rank: int) -> None:
        self._profile, self._rank = profile, rank
        self._running: Any = None

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """The block is step `number`; after the last one that is asked for, the trace is written."""
        profile = self._profile
        if profile is None or not profile.first <= number <= profile.last:
            yield
            return
        import torch

        if self._running is None:
            self._running = torch.profiler.profile(record_shapes=True)  # of the CPU, and of the GPU where there is one
            self._running.start()
        with torch.profiler.record_function(f"step {number}"):
            yield
        if number == profile.last:
            self._running.stop()
            file = profile.file(self._rank)
            file.parent.mkdir(parents=True, exist_ok=True)
            self._running.export_chrome_trace(str(file))
            self._running = None
