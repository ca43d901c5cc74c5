"""The story of a local fault: a run, the fault, the same command again until it is done, and what is then compared.

In: a fault, a bench and a seed. Out: what a row says. Compared with the run that nobody disturbed: every byte of masters and moments, the
published weights, and each step's loss and gradient norm; and the repository has one commit.
"""

import random
import re
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from tests.reliability.command import Command, Stuck
from tests.reliability.local_faults import LocalFault, Struck
from tests.reliability.place import TOTAL_STEPS, Bench, Place, Result

# A user who finds the same error a third time asks somebody.
_MOST_COMMANDS: Final = 3
_MOST_SAID: Final = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a row says of a fault, as in `rows.Row`."""

    moment: str
    missed: str
    steps_lost: int | None = None
    seconds: float | None = None
    rank_seconds: float | None = None
    commands: int = 1
    said: str = ""


def outcome(fault: LocalFault, bench: Bench, chance: random.Random) -> Outcome:
    """Do it at the moment that `chance` draws, and look. Raises Unavailable where this machine can't."""
    reference = bench.undisturbed()
    with bench.place(chance) as place, ExitStack() as around:
        around.enter_context(fault.before(place))
        struck: Struck | None = None
        missed: list[str] = []
        try:
            with place.running() as first:
                struck = fault.strike(place, first)
                code = first.end()
                missed += struck.check() + _left(first)
            started = 1
            while code and started < _MOST_COMMANDS:
                started += 1
                with place.running() as again:
                    code = again.end()
                    missed += _left(again)
            if code:
                missed.append(f"the command failed {started} times, the last time with: {place.commands[-1].said()}")
            else:
                missed += _compared(place, reference)
        except Stuck as error:
            missed.append(f"stuck: {error}")
        lost = steps_lost(place.commands)
        if lost > fault.steps_lost:
            missed.append(f"{lost} steps lost, and {fault.steps_lost} may be")
        if fault.trains_on and _most(place.commands[0]) < TOTAL_STEPS:
            missed.append("training ended")
        missed += _tracebacks(place)
        seconds, rank_seconds = _to_first_step(place.commands, struck)
        return Outcome(
            moment=struck.moment if struck else "never",
            missed=_plain(place, "; ".join(dict.fromkeys(missed))),
            steps_lost=lost,
            seconds=seconds,
            rank_seconds=rank_seconds,
            commands=len(place.commands),
            said=_plain(place, _said(place.commands, struck)),
        )


def _most(command: Command) -> int:
    return max((event["step"] for event in command.of_kind("StepDone")), default=0)


def steps_lost(commands: list[Command]) -> int:
    """Steps that were done before a later command began, and again by it."""
    lost = 0
    for number, command in enumerate(commands):
        done = command.of_kind("StepDone")
        before = [
            event["step"] for one in commands[:number] for at, event in one.events if at < command.began and event.get("kind") == "StepDone"
        ]
        lost += max(0, max(before, default=0) - (done[0]["step"] - 1)) if done else 0
    return lost


def _compared(place: Place, reference: Result) -> list[str]:
    found = place.result()
    return [
        *(["masters or moments differ"] if found.state != reference.state else []),
        *(["the weights differ"] if found.weights != reference.weights else []),
        *(["a step was skipped, or its loss differs"] if found.steps != reference.steps else []),
        *([f"published {place.publications()} times"] if place.publications() != 1 else []),
    ]


def _left(command: Command) -> list[str]:
    left = command.left()
    return [f"left behind: {', '.join(sorted(left.values()))}"] if left else []


def _tracebacks(place: Place) -> list[str]:
    """What nobody should have to read."""
    shown = [command for command in place.commands if "Traceback" in command.errors.read_text(errors="replace")]
    return ["a traceback was printed"] if shown else []


def _to_first_step(commands: list[Command], struck: Struck | None) -> tuple[float | None, float | None]:
    """Until the first new step: of a command that went on, or after the fault where there is one command only."""
    for command in commands[1:]:
        step, ranks = command.when("StepDone"), command.when("StageStarted", stage="training")
        if step is not None and ranks is not None:
            return round(step - command.began, 1), round(step - ranks, 1)
    step = commands[0].when("StepDone", after=struck.at) if struck and len(commands) == 1 else None
    return (round(step - struck.at, 1), None) if struck and step is not None else (None, None)


def _said(commands: list[Command], struck: Struck | None) -> str:
    """The error that ended the first command, or the first thing that it noticed after the fault."""
    first = commands[0]
    if first.process.returncode:
        if said := first.said():
            return said
        resumed: list[dict[str, Any]] = [event for command in commands[1:] for event in command.of_kind("Resumed")]
        return f"nothing; the next command: resumed after step {resumed[0]['step']}" if resumed else "nothing"
    notices = [str(event["message"]) for at, event in first.events if event.get("kind") == "Notice" and struck and at >= struck.at]
    return notices[0] if notices else "nothing: it went on"


def _plain(place: Place, text: str) -> str:
    """Without what is this machine's: folders, ports, ids."""
    text = text.replace(str(place.folder), "...")
    text = re.sub(r"127\.0\.0\.1:\d+", "host", text)
    text = re.sub(r"\b[0-9a-f]{16,}\b", lambda found: found[0][:8], text)
    text = " ".join(text.split())
    return text if len(text) <= _MOST_SAID else text[: _MOST_SAID - 3] + "..."
