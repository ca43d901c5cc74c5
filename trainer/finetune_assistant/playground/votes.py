"""Votes of a playground in a file: a row each, as `finetune human import` and `finetune data preferences` read them.

In: votes, while a page is open. Out: lines at the end of a file that other playgrounds may be writing too. Pages are unknown here.
"""

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path

from finetune_api.errors import InvalidData, RunFailed
from finetune_assistant.judging.votes import Vote, read_vote_rows, vote_row


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteFile:
    """A file of votes on two models."""

    path: Path
    names: tuple[str, str]

    def check(self) -> None:
        """Refuse, before a model is loaded, a file that is none of votes, or of votes on other models. Raises InvalidData."""
        if not self.path.exists():
            if not self.path.parent.is_dir():
                raise InvalidData(f"--votes {self.path}: there is no folder {self.path.parent}; make it, or name another place")
            return
        for vote in read_vote_rows(self.path):
            if set(vote.names) != set(self.names):
                raise InvalidData(
                    f"--votes {self.path} holds votes on {' and '.join(vote.names)}, and these are on {' and '.join(self.names)}; "
                    "give another file"
                )

    def append(self, vote: Vote, *, both_bad: bool = False) -> None:
        """Add a vote, whole or not at all. `both_bad`: the voter said of a tie that neither is good. Raises RunFailed."""
        row = {**vote_row(vote), **({"both_bad": True} if both_bad else {})}
        # Half of a surrogate pair, which a browser can send, is no UTF-8.
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", errors="replace")
        try:
            with self.path.open("ab+", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                _append(file.fileno(), line)
        except OSError as error:
            raise RunFailed(
                f"{self.path}: the vote can't be kept ({error.strerror or error}); make room there, or end and choose another --votes"
            ) from error


def _append(descriptor: int, line: bytes) -> None:
    """Write at the end, after a line that an editor or a power cut left open; what doesn't fit is taken back."""
    length = os.fstat(descriptor).st_size
    if length and os.pread(descriptor, 1, length - 1) != b"\n":
        line = b"\n" + line
    if os.write(descriptor, line) != len(line):
        os.ftruncate(descriptor, length)
        raise OSError("no space left")
    os.fsync(descriptor)
