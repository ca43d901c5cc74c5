"""What is left of attempts and pods when they are gone, as `kept_logs.py` keeps it: which there were, how they ended, what they said.

In: a storage. Out: values; nothing is written. Whoever may write to the storage may have put anything there: what no process of ours has
written is passed over.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

from finetune_api.json_text import json_value
from finetune_trainer.storage.errors import MissingObject
from finetune_trainer.storage.kept_logs import BEGAN, ENDED, LOGS, STDERR, End
from finetune_trainer.storage.protocol import Storage

Stage: TypeAlias = Literal["preparation", "training", "evaluation", "publication"]
# In the order in which a job goes through them.
STAGES: Final[tuple[Stage, ...]] = ("preparation", "training", "evaluation", "publication")
# Who tells of the whole, where several processes are kept: the head of a cluster, a pod, one machine.
_TELLERS: Final = ("driver", "main", "rank-0")
_LARGEST_RECORD_BYTES: Final = 64 * 2**10
_PIECE: Final = re.compile(r"\d{12}\.log")
_RANK: Final = re.compile(r"rank-(\d+)(?:\.(\d+))?")
# <time>-<FineTuneJob>-<attempt>-<five letters of KubeRay's>
_ON_A_CLUSTER: Final = re.compile(r".*-([1-9]\d*)-[a-z0-9]{5}")


@dataclass(slots=True, kw_only=True)
class KeptLog:
    """What one process printed: its pieces in order, those of stderr behind them, and their size."""

    keys: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    size: int = 0
    has_began: bool = False
    has_ended: bool = False


@dataclass(slots=True, kw_only=True)
class KeptRun:
    """An attempt at training, or a pod of another stage. `number` counts from 1 within its stage; `files`: sizes of what else is kept."""

    stage: Stage
    name: str
    number: int = 0
    logs: dict[str, KeptLog] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)

    @property
    def teller(self) -> str:
        """Whose log tells of the whole."""
        return next((who for who in _TELLERS if who in self.logs), min(self.logs, default=""))

    @property
    def size(self) -> int:
        """Bytes of all that is kept of it."""
        return sum(log.size for log in self.logs.values()) + sum(self.files.values())

    @property
    def place(self) -> str:
        """What the keys of all of it begin with."""
        return f"{LOGS}/{self.stage}/{self.name}"

    def in_order(self) -> list[str]:
        """Whose logs there are: who tells of the whole, ranks by number, the rest by name."""
        return sorted(self.logs, key=lambda who: (who != self.teller, *_rank_order(who)))


def _rank_order(who: str) -> tuple[bool, int, int, str]:
    match = _RANK.fullmatch(who)
    return match is None, int(match[2] or 1) if match else 0, int(match[1]) if match else 0, who


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """When a process began and ended, and how; `end` is None of one that runs, or was killed before it could say so."""

    began: datetime | None
    ended: datetime | None
    end: End | None


def kept_runs(storage: Storage) -> dict[Stage, list[KeptRun]]:
    """All that is kept, by stage, each the oldest first; a stage of which nothing is kept is left out."""
    found: dict[tuple[Stage, str], KeptRun] = {}
    for key, size in storage.list(f"{LOGS}/"):
        _, stage, *rest = key.split("/")
        if stage not in STAGES or not 2 <= len(rest) <= 3 or not all(rest):
            continue
        name = rest[0]
        run = found.setdefault((stage, name), KeptRun(stage=stage, name=name))
        if len(rest) == 2:
            run.files[rest[1]] = size
        else:
            _add(run, rest[1], rest[2], key, size)
    runs: dict[Stage, list[KeptRun]] = {
        stage: of for stage in STAGES if (of := [run for (its, _), run in sorted(found.items()) if its == stage and run.logs])
    }
    for of in runs.values():
        for position, run in enumerate(of, start=1):
            match = _ON_A_CLUSTER.fullmatch(run.name) if run.stage == "training" else None
            run.number = int(match[1]) if match else position
    return runs


def _add(run: KeptRun, who: str, name: str, key: str, size: int) -> None:
    of = who.removesuffix(STDERR)
    log = run.logs.setdefault(of, KeptLog()) if name in (BEGAN, ENDED) or _PIECE.fullmatch(name) else None
    if log is None:
        return
    if name == BEGAN:
        log.has_began = True
    elif name == ENDED:
        log.has_ended = True
    else:
        (log.keys if of == who else log.errors).append(key)
        log.size += size


def pieces(storage: Storage, log: KeptLog) -> Iterator[bytes]:
    """What a process printed; what it printed to another stderr comes last."""
    for key in (*sorted(log.keys), *sorted(log.errors)):
        yield storage.get(key)


def life_of(storage: Storage, run: KeptRun, who: str) -> Life:
    """When one of its processes began and ended."""
    log = run.logs[who]
    began = _record(storage, f"{run.place}/{who}/{BEGAN}") if log.has_began else {}
    ended = _record(storage, f"{run.place}/{who}/{ENDED}") if log.has_ended else {}
    end = None
    if isinstance(outcome := ended.get("outcome"), str):
        reason, message, code = (ended.get(name) for name in ("reason", "message", "exitCode"))
        end = End(
            outcome=outcome,
            reason=reason if isinstance(reason, str) else "",
            message=message if isinstance(message, str) else "",
            exit_code=code if isinstance(code, int) else None,
        )
    return Life(began=_time(began), ended=_time(ended), end=end)


def _record(storage: Storage, key: str) -> Mapping[str, Any]:
    try:
        found = json_value(storage.get(key, 0, _LARGEST_RECORD_BYTES))
    except (MissingObject, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _time(record: Mapping[str, Any]) -> datetime | None:
    try:
        found = datetime.fromisoformat(record["time"])
    except (KeyError, TypeError, ValueError):
        return None
    return found if found.tzinfo is not None else None
