"""The talks of all browsers with the same models: a bounded number of them, in one line for the models.

In: what gradio calls a browser. Out: its talk. What is said in a talk is unknown here.
"""

import random
import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from finetune_assistant.playground.line import Line
from finetune_assistant.playground.talk import Talk
from finetune_assistant.playground.voices import Voice

# Each holds keys and values of its dialogues in the model's memory.
MOST_TALKS: Final = 16


class Talks:
    """The talks of all browsers, a bounded number: the one that nobody touched for longest makes room."""

    def __init__(self, voices: Sequence[Voice], *, most: int = MOST_TALKS, seed: int | None = None) -> None:
        """`seed` draws the sides; None: nobody can know them."""
        self._voices, self._most = tuple(voices), most
        self._line = Line()
        self._seeds = random.Random(seed)
        self._lock = threading.Lock()
        self._talks: OrderedDict[str, Talk] = OrderedDict()
        self._forgotten: deque[str] = deque(maxlen=1000)

    @property
    def voices(self) -> tuple[Voice, ...]:
        """Who takes part: the model, and its base if it was given."""
        return self._voices

    def of(self, browser: str) -> Talk:
        """The talk of a browser, new where it has none."""
        with self._lock:
            talk = self._talks.pop(browser, None) or self._new(browser)
            self._talks[browser] = talk
            while len(self._talks) > self._most:
                idle = next((name for name, other in self._talks.items() if not other.busy and name != browser), None)
                if idle is None:
                    break
                del self._talks[idle]
                self._forgotten.append(idle)
            return talk

    def leave(self, browser: str) -> None:
        """The browser is gone: nobody reads what is being written for it."""
        with self._lock, suppress(KeyError):
            self._talks.pop(browser).stop()

    def close(self, *, seconds: float = 10.0) -> None:
        """End every answer, and wait for that, `seconds` at most for each."""
        with self._lock:
            for talk in self._talks.values():
                talk.stop()
            for talk in self._talks.values():
                talk.wait(seconds)

    def _new(self, browser: str) -> Talk:
        notice = f"Your earlier talk is forgotten: more than {self._most} were open." if browser in self._forgotten else ""
        return Talk(self._voices, self._line, random.Random(self._seeds.random()), notice=notice)
