"""What became of a Python answer, as a page shows it: pictures, output, a sentence.

In: what the sandbox brought back. Out: HTML that holds nothing of the program's but its pictures, and text. Pictures are a stranger's data,
so they are not decoded here: the browser does it, as with any picture of the web. Models are unknown here.
"""

import html
from base64 import b64encode
from dataclasses import dataclass
from typing import Final

from finetune_api.errors import FineTuneError
from finetune_assistant.sandbox import plots
from finetune_assistant.sandbox.plots import Plot
from finetune_assistant.sandbox.run import why_not

MOST_PICTURES: Final = 6
MOST_BYTES: Final = 8 << 20  # of all pictures together, which a browser gets in one piece


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """`pictures` is HTML, `printed` and `told` are text."""

    pictures: str
    printed: str
    told: str


def why_not_run() -> str | None:
    """Why answers can't be run on this machine, with the remedy; None: they can."""
    try:
        plots.need_libraries()
    except FineTuneError as error:
        return str(error)
    return why_not()


def run(answer: str) -> Ran:
    """Run an answer's Python in the sandbox."""
    try:
        return shown(plots.draw(answer))
    except FineTuneError as error:
        return Ran(pictures="", printed="", told=str(error))


def shown(plot: Plot) -> Ran:
    """What a page shows of it."""
    told = [f"It failed: {plot.error}." if plot.error else f"It ran, and drew {_number(len(plot.pictures))}."]
    told += [f"Left out, for a notebook only: {', '.join(plot.notes)}."] if plot.notes else []
    chosen: list[bytes] = []
    for picture in plot.pictures[:MOST_PICTURES]:
        if sum(map(len, chosen)) + len(picture) <= MOST_BYTES:
            chosen.append(picture)
    if left_out := len(plot.pictures) - len(chosen):
        told.append(f"Not shown: {_number(left_out)} more, or too large.")
    images = [_image(picture, f"Picture {number} that the answer's program drew") for number, picture in enumerate(chosen, start=1)]
    return Ran(pictures="".join(images), printed=plot.stdout, told=" ".join(told))


def _image(picture: bytes, words: str) -> str:
    return f'<img style="max-width: 100%" alt="{html.escape(words)}" src="data:image/png;base64,{b64encode(picture).decode()}">'


def _number(count: int) -> str:
    return "1 picture" if count == 1 else f"{count} pictures"
