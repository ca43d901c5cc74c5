"""One browser's talk: a dialogue with one model, or with two on sides that nobody knows before the vote.

In: questions, stops, votes. Out: views, which say all that the browser's page shows. An answer is written in a thread of its own, so that a
browser that goes away leaves nothing locked, and who has to wait for the models is told. Gradio is unknown here.
"""

import random
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final, Literal

from finetune_api.errors import FineTuneError, InvalidInput
from finetune_assistant.inference.sampling import Sampling
from finetune_assistant.judging.answers import Pair
from finetune_assistant.judging.votes import Vote
from finetune_assistant.playground.line import Line
from finetune_assistant.playground.views import Column, Said, Turn, View
from finetune_assistant.playground.voices import Dialogue, Settings, Voice
from finetune_trainer.data.dialogues import Message

# Seconds between two views of an answer that is being written: a browser shows no more than some twenty a second.
PACE: Final = 0.05
_LOOK_SECONDS = 0.2

Choice = Literal["left", "right", "tie", "both bad"]


class Talk:
    """One browser's talk. Its methods may be called from any thread; one question is answered at a time."""

    def __init__(self, voices: Sequence[Voice], line: Line, draw: random.Random, *, notice: str = "") -> None:
        self._voices, self._line, self._draw = tuple(voices), line, draw
        self._answering = threading.Lock()
        self._voting = threading.Lock()
        self._stop = threading.Event()
        self._changed = threading.Event()
        self._clear()
        self._notice = self._greeting = notice

    @property
    def busy(self) -> bool:
        """Whether a question is being answered, or waits."""
        return self._answering.locked()

    def view(self) -> View:
        """What the page shows now."""
        turns = self._turns
        columns = tuple(
            Column(name=self._voices[voice].name if self._open else "", turns=tuple((turn.question, turn.said[voice]) for turn in turns))
            for voice in self._order
        )
        return View(columns=columns, busy=self.busy, notice=self._notice, no_vote=self._no_vote())

    def ask(self, question: str, settings: Settings) -> Iterator[View]:
        """Ask each voice; views while they answer."""
        if not question.strip():
            yield self._told("Write a question first.")
            return
        yield from self._answered(question, settings, again=False)

    def retry(self, settings: Settings) -> Iterator[View]:
        """Ask the last question again, in place of its answers."""
        if not self._turns:
            yield self._told("There is no question to answer again; ask one.")
            return
        yield from self._answered(self._turns[-1].question, settings, again=True)

    def stop(self) -> None:
        """End the answer that is being written; it is kept as far as it got."""
        self._stop.set()

    def wait(self, seconds: float) -> None:
        """Until no question is being answered, `seconds` at most."""
        if self._answering.acquire(timeout=seconds):
            self._answering.release()

    def reset(self) -> View:
        """A new talk, with sides drawn anew."""
        if not self._answering.acquire(blocking=False):
            return self._told("An answer is being written; stop it first.")
        try:
            self._clear()
        finally:
            self._answering.release()
        return self.view()

    def show_names(self) -> View:
        """Say who is on which side; then nobody votes any more."""
        self._open = True
        return self.view()

    def vote(self, choice: Choice, rater: str, keep: Callable[[Vote], None]) -> View:
        """Vote on the last turn, by what is on the left and on the right. When `keep` has kept the vote, the names are shown.

        Raises InvalidInput when there is nothing to vote on, and what `keep` raises.
        """
        with self._voting:
            if (reason := self._no_vote()) is not None:
                raise InvalidInput(reason)
            keep(self._voted(choice, rater))
            return self.show_names()

    def last_answer(self, side: int) -> str:
        """The newest answer on a side, counted from the left."""
        return self._turns[-1].said[self._order[side]].text if self._turns else ""

    def _voted(self, choice: Choice, rater: str) -> Vote:
        turn = self._turns[-1]
        messages = (*turn.before[0], Message(role="user", content=turn.question))
        winner = {"left": self._order[0], "right": self._order[1]}.get(choice)
        return Vote(
            pair=Pair(
                key=f"playground {uuid.uuid4().hex[:12]}",
                turns=tuple((message.role, message.content) for message in messages),
                answer_a=turn.said[0].text,
                answer_b=turn.said[1].text,
            ),
            label="tie" if winner is None else ("a", "b")[winner],
            rater=rater,
            names=(self._voices[0].name, self._voices[1].name),
        )

    def _clear(self) -> None:
        self._turns: tuple[Turn, ...] = ()
        self._dialogues: list[tuple[Sampling, Dialogue] | None] = [None] * len(self._voices)
        self._order = tuple(self._draw.sample(range(len(self._voices)), len(self._voices)))
        self._open = len(self._voices) == 1
        self._notice = ""

    def _told(self, notice: str) -> View:
        return replace(self.view(), notice=notice)

    def _no_vote(self) -> str | None:
        """Why there is nothing to vote on. A vote is on two answers to the same messages by models that the voter can't tell apart."""
        if len(self._voices) == 1:
            return "There is one model only; start the playground with --base to compare two."
        if self.busy or not self._turns:
            return "Vote when both have answered."
        if self._open:
            return "The names are shown; a new talk can be voted on."
        turn = self._turns[-1]
        if any(said.answer is None or said.answer.stopped == "interrupted" for said in turn.said):
            return "An answer is missing or was stopped; ask again to vote."
        if turn.before[0] != turn.before[1]:
            return "By now each model has read other answers, its own; begin a new talk to vote."
        return None

    def _answered(self, question: str, settings: Settings, *, again: bool) -> Iterator[View]:
        if not self._answering.acquire(blocking=False):
            yield self._told("An answer is being written; stop it first.")
            return
        self._stop.clear()
        self._notice, self._greeting = self._greeting, ""
        done = threading.Event()
        worker = threading.Thread(target=self._work, args=(question, settings, again, done), name="playground", daemon=True)
        worker.start()
        while not done.is_set():
            if self._changed.wait(_LOOK_SECONDS):
                self._changed.clear()
                yield self.view()
                done.wait(PACE)
        worker.join()
        yield self.view()

    def _work(self, question: str, settings: Settings, again: bool, done: threading.Event) -> None:
        """In the thread: wait for the models, and ask them, the left one first."""
        ticket, notice = self._line.enter(), self._notice
        try:
            while before := self._line.before(ticket, seconds=_LOOK_SECONDS):
                if self._stop.is_set():
                    self._notice = "Stopped before it was asked."
                    return
                self._notice = f"The model answers somebody else; {before} before you."
                self._changed.set()
            self._notice = notice
            self._ask_voices(question, settings, again)
        finally:
            self._line.leave(ticket)
            self._answering.release()
            done.set()
            self._changed.set()

    def _ask_voices(self, question: str, settings: Settings, again: bool) -> None:
        kept = self._turns[:-1] if again else self._turns
        before: list[tuple[Message, ...]] = []
        dialogues: list[Dialogue | str] = []
        for voice in range(len(self._voices)):
            dialogue = self._dialogue(voice, settings)
            if again and not isinstance(dialogue, str):
                dialogue.go_on_with(self._turns[-1].before[voice])
                dialogue.set_system(settings.system)
            dialogues.append(dialogue)
            before.append(() if isinstance(dialogue, str) else tuple(dialogue.messages))
        self._turns = (*kept, Turn(question=question, before=tuple(before), said=(Said(),) * len(self._voices)))
        for voice in self._order:
            dialogue = dialogues[voice]
            self._say(voice, Said(failure=dialogue) if isinstance(dialogue, str) else self._asked(voice, dialogue, question))

    def _asked(self, voice: int, dialogue: Dialogue, question: str) -> Said:
        """Ask one voice, and show its answer while it is written."""
        written: list[str] = []

        def on_text(text: str) -> None:
            written.append(text)
            self._say(voice, Said(text="".join(written)))
            if self._stop.is_set():
                raise KeyboardInterrupt

        if self._stop.is_set():
            return Said(failure="stopped before it was asked")
        try:
            answer = dialogue.ask(question, on_text)
        except Exception as error:  # whatever a model can do: the page says it, and the talk goes on
            return Said(text="".join(written), failure=_reason(error))
        return Said(text=answer.text, answer=answer)

    def _say(self, voice: int, said: Said) -> None:
        turn = self._turns[-1]
        self._turns = (*self._turns[:-1], replace(turn, said=(*turn.said[:voice], said, *turn.said[voice + 1 :])))
        self._changed.set()

    def _dialogue(self, voice: int, settings: Settings) -> Dialogue | str:
        """The dialogue with a voice, begun where there is none or answers are drawn otherwise now; or why there can't be one."""
        held = self._dialogues[voice]
        if held is not None and held[0] == settings.sampling:
            held[1].set_system(settings.system)
            return held[1]
        try:
            dialogue = self._voices[voice].begin(settings.system, settings.sampling)
        except FineTuneError as error:
            return _reason(error)
        if held is not None:
            dialogue.go_on_with(held[1].messages)
            dialogue.set_system(settings.system)
        self._dialogues[voice] = (settings.sampling, dialogue)
        return dialogue


def _reason(error: Exception) -> str:
    """For people: our errors are whole sentences, others are named."""
    return str(error) if isinstance(error, FineTuneError) else f"{type(error).__name__}: {' '.join(str(error).split())}"
