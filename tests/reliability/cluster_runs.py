"""The story of faults on a cluster: one run through all of them, and another that nobody disturbs, which it is compared with.

In: names of faults. Out: what each one's row says. Compared: every byte of masters and moments, the published weights, each step's loss
and gradient norm; and the repository has one commit. What all of the run missed is in each row.
"""

import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.reliability.cluster_faults import CLUSTER_FAULTS, Scene
from tests.reliability.cluster_place import INTERVAL_STEPS, ClusterPlace
from tests.reliability.local_runs import Outcome

# So many that a quiet machine is not done before the last fault; a busy one has time enough in fewer.
STEPS: Final = int(os.environ.get("CLUSTER_STEPS", "500"))
# Nothing here takes so long that gets on.
_STUCK_SECONDS: Final = 600.0
# An interval, and what is trained while a checkpoint is written, which is at most another.
_MOST_LOST: Final = 2 * INTERVAL_STEPS
# The report is as old as this, at most, while nothing happens.
_REPORT_SECONDS: Final = 10.0
_MOST_SAID: Final = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class _Struck:
    """A fault that was done, and what came of it. `step`: told before it. `attempts`: how many it took, with the one that it struck."""

    fault: str
    moment: str
    step: int
    attempts: int
    seconds: float | None
    said: str
    missed: tuple[str, ...]


def outcomes(place: ClusterPlace, faults: Sequence[str]) -> dict[str, Outcome]:
    """Do these faults to one run, in the order of CLUSTER_FAULTS, and look."""
    done: list[_Struck] = []
    missed: list[str] = []
    try:
        scene = place.begin("disturbed", STEPS)
        for fault in (name for name in CLUSTER_FAULTS if name in faults):
            done.append(_struck(scene, fault))
        scene.jobs.wait_for("disturbed", "Succeeded", seconds=2 * _STUCK_SECONDS)
        place.begin("undisturbed", STEPS)
        place.jobs.wait_for("undisturbed", "Succeeded", seconds=2 * _STUCK_SECONDS)
        missed += _compared(place)
    except AssertionError as error:
        print(error, flush=True)
        missed.append(str(error).splitlines()[0])
    lost = _lost(place, done)
    never = Outcome(moment="never", missed="; ".join(missed)[:_MOST_SAID])
    return dict.fromkeys(faults, never) | {one.fault: _outcome(one, lost.get(one.fault, 0), missed) for one in done}


def _struck(scene: Scene, name: str) -> _Struck:
    """Do it once the attempt has committed a checkpoint and does steps after it; wait until there is a new step."""
    fault, jobs = CLUSTER_FAULTS[name], scene.jobs
    before = jobs.wait(scene.name, _gets_on)["status"]
    attempt, step = before["attempts"][-1]["number"], before["progress"]["step"]
    starts = _starts(before)
    at = time.monotonic()
    where = fault.strike(scene)
    healed = time.monotonic()

    def again(status: dict[str, Any]) -> bool:
        last, reached = status["attempts"][-1], status.get("progress", {}).get("step", 0)
        if last["number"] > attempt:
            return bool(reached > last.get("firstStep", reached))
        if fault.trains_on:  # what was committed before it may be told after it
            return bool(status["checkpoints"]["latest"]["step"] > step + INTERVAL_STEPS)
        # What it did before the fault is told later than it was done.
        return bool(_starts(status) > starts and reached > step and time.monotonic() - healed > _REPORT_SECONDS)

    after = jobs.wait(scene.name, again, seconds=_STUCK_SECONDS)["status"]
    seconds = time.monotonic() - at
    ended = [one for one in after["attempts"] if one["number"] >= attempt and "outcome" in one]
    missed = [f"attempt {one['number']} was charged" for one in ended if one.get("charged")]
    missed += [f"attempt {one['number']} ended" for one in ended if fault.trains_on]
    went_on = "its workers started again in place" if _starts(after) > starts else "nothing: it went on"
    told = f"step {step}, attempt {attempt}: {where}"
    print(f"{name}, {told}: a new step after {seconds:.0f} s; {[*map(_words, ended)]}", flush=True)
    # The next fault finds what this one has left behind it: checkpoints of the attempt that goes on.
    jobs.wait(scene.name, lambda status: bool(_gets_on(status) and status["checkpoints"]["latest"]["step"] > step + _MOST_LOST))
    return _Struck(
        fault=name,
        moment=told,
        step=step,
        attempts=after["attempts"][-1]["number"] - attempt + 1,
        seconds=None if fault.trains_on else round(seconds, 1),
        said="; ".join(map(_words, ended)) or went_on,
        missed=tuple(missed),
    )


def _starts(status: dict[str, Any]) -> int:
    """How often workers of the attempt started again in place."""
    return int(status["attempts"][-1].get("restarts", {}).get("count", 0))


def _gets_on(status: dict[str, Any]) -> bool:
    """Whether the attempt has committed a checkpoint, and has done a step since."""
    last = (status.get("attempts") or [{}])[-1]
    latest = status.get("checkpoints", {}).get("latest", {}).get("step", 0)
    return bool("outcome" not in last and last.get("firstStep", 0) < latest < status.get("progress", {}).get("step", 0))


def _words(attempt: dict[str, Any]) -> str:
    return f"{attempt['outcome']}: {attempt.get('message', '')}"


def _compared(place: ClusterPlace) -> list[str]:
    found, wanted = (place.result(name, STEPS) for name in ("disturbed", "undisturbed"))
    charged = place.jobs.get("disturbed")["status"]["usage"]["chargedFailures"]
    return [
        *(["masters or moments differ"] if found.state != wanted.state else []),
        *(["the weights differ"] if found.weights != wanted.weights else []),
        *(["a step was skipped or repeated"] if [step for step, *_ in found.steps] != [*range(1, STEPS + 1)] else []),
        *(["a loss differs"] if found.steps != wanted.steps else []),
        *([f"published {place.publications('disturbed')} times"] if place.publications("disturbed") != 1 else []),
        *([f"{charged} charged"] if charged else []),
    ]


def _lost(place: ClusterPlace, done: Sequence[_Struck]) -> dict[str, int]:
    """Steps that were done again, by the fault after which they were."""
    lost: dict[str, int] = {}
    for last, first in _set_back(_steps_of(place)):
        fault = next((one.fault for one in reversed(done) if one.step <= last), "")
        lost[fault] = lost.get(fault, 0) + last - (first - 1)
    return lost


def _steps_of(place: ClusterPlace) -> Iterator[int]:
    """Every step in the kept logs of the run's drivers, in order, also those that were done again."""
    for key, text in sorted(place.jobs.kept_logs("disturbed").items()):
        if key.startswith("logs/training/") and "/driver/" in key:
            for line in text.splitlines():
                if line.startswith('{"kind": "StepDone"'):
                    yield json.loads(line)["step"]


def _set_back(steps: Iterator[int]) -> Iterator[tuple[int, int]]:
    """Where steps are done again: the last one before, and the first one after.

    >>> [*_set_back(iter([1, 2, 3, 3, 4, 5, 4, 5, 6]))]
    [(3, 3), (5, 4)]
    """
    last = 0
    for step in steps:
        if step <= last:
            yield last, step
        last = step


def _outcome(struck: _Struck, lost: int, of_all: Sequence[str]) -> Outcome:
    missed = [*struck.missed, *([f"{lost} steps lost, and {_MOST_LOST} may be"] if lost > _MOST_LOST else []), *of_all]
    return Outcome(
        moment=struck.moment,
        missed="; ".join(dict.fromkeys(missed))[:_MOST_SAID],
        steps_lost=lost,
        seconds=struck.seconds,
        commands=struck.attempts,
        said=re.sub(r"\s+", " ", struck.said)[:_MOST_SAID],
    )
