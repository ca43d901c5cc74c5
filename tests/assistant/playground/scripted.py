"""A dialogue that follows a script, in place of one with a model. `test_voices.py` runs the same cases against a real one."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from finetune_api.errors import InvalidData
from finetune_assistant.inference.chat import Answer, OnText, Stopped
from finetune_assistant.inference.sampling import Sampling
from finetune_assistant.playground.voices import Voice
from finetune_trainer.data.dialogues import Message

TOO_LONG = 1000  # characters of a question that fits no window

PLOT = """Here it is:

```python
import matplotlib.pyplot as plt
plt.bar(["a", "b"], [1, 2])
print("two bars")
plt.show()
```
"""


class Scripted:
    """Answers `SCRIPT[question]`, or its own name and the question. A question that begins with "Wait" is answered when `go` is set."""

    def __init__(self, name: str, go: threading.Event, system: str | None, sampling: Sampling, fails: bool) -> None:
        self._name, self._go, self._sampling, self._fails = name, go, sampling, fails
        self.messages: list[Message] = []
        self.set_system(system)

    def set_system(self, text: str | None) -> None:
        talk = [message for message in self.messages if message.role != "system"]
        self.messages = [*([] if text is None else [Message(role="system", content=text)]), *talk]

    def go_on_with(self, messages: Sequence[Message]) -> None:
        self.messages = list(messages)

    def ask(self, question: str, on_text: OnText = lambda _text: None) -> Answer:
        if len(question) > TOO_LONG:
            raise InvalidData("the question doesn't fit")
        if self._fails:
            raise RuntimeError("out of memory")
        system = next((message.content for message in self.messages if message.role == "system"), "")
        text = PLOT if question == "Plot it" else f"I am {self._name}. {system}You said: {question}"
        words = [f"{word} " for word in text.split(" ")]
        shown, stopped = "", "end"
        try:
            for number, word in enumerate(words):
                shown += word
                on_text(word)
                if number == 0 and question.startswith("Wait"):
                    while not self._go.wait(0.02):
                        on_text("")
        except KeyboardInterrupt:
            stopped = "interrupted"
        prompt = sum(len(message.content.split()) for message in self.messages) + len(question.split())
        self.messages = [*self.messages, Message(role="user", content=question), Message(role="assistant", content=shown.strip())]
        return answer(shown.strip(), stopped=stopped, prompt_tokens=prompt)  # type: ignore[arg-type]


def answer(text: str, *, stopped: Stopped = "end", prompt_tokens: int = 3, **more: Any) -> Answer:
    """An answer with a token for each word."""
    count = len(text.split())
    values = {"kept_tokens": 0, "new_tokens": count, "left_out": 0, "seconds": 0.5, "first_seconds": 0.1, **more}
    return Answer(text=text, stopped=stopped, prompt_tokens=prompt_tokens, **values)


def scripted(name: str, *, go: threading.Event | None = None, fails: bool = False) -> Voice:
    """A voice that follows the script."""
    ready = go or threading.Event()
    begin: Callable[[str | None, Sampling], Scripted] = lambda system, sampling: Scripted(name, ready, system, sampling, fails)  # noqa: E731
    return Voice(name=name, begin=begin)
