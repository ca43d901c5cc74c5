"""The section of docs/models.md that `make families` writes below the table of architectures."""

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.families.arrived import STEPS, Arrived

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/models.md"
BEGIN = "<!-- written by `make families` -->"
_BEFORE = """## From base model to plain Transformers

`make families` writes small random models, types `finetune run` ({steps} steps, two workers, ZeRO-3) and `finetune export`, and loads the
folder in a process of plain Transformers that finds nothing of this project. Apart: the largest difference of a logit between what that
process computes, one conversation at a time, and the trained model in memory (our attention, conversations in one row where they may share
one), as a part of their range; moved: how far training moved them.
"""


def table(found: Sequence[tuple[str, Arrived]]) -> str:
    """A row a family."""
    lines = [
        _BEFORE.format(steps=STEPS),
        "| family | a row holds | loss of each step | moved | apart | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for family, one in found:
        losses = ", ".join(f"{loss:.3f}" for loss in one.losses)
        row = "several dialogues" if one.packed else "one dialogue"
        lines.append(f"| {family} | {row} | {losses} | {one.moved:.2g} | {one.apart:.1g} | {'equal' if one.is_right else '**WRONG**'} |")
    libraries = ", ".join(f"{name} {version(name)}" for name in ("transformers", "torch", "deepspeed", "ray"))
    return "\n".join([*lines, "", f"{datetime.now(UTC):%-d %B %Y}, {libraries}, on a CPU."]) + "\n"


def section(page: str) -> str:
    """What the page has from BEGIN on; empty if it has nothing."""
    return "".join(page.partition(BEGIN)[1:])


def with_section(page: str, written: str) -> str:
    """The page with another section."""
    return f"{page.partition(BEGIN)[0].rstrip()}\n\n{BEGIN}\n\n{written}"
