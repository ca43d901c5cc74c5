"""Talking to a model: a dialogue that grows, and answers that are shown while they are generated.

In: a loaded model and questions. Out: answers. Generation runs in another thread, so that Ctrl-C ends an answer and not the session. What
the model read in earlier turns is kept, not read again. Terminals, files and JSON are unknown here.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from finetune_api.errors import InvalidData
from finetune_assistant.inference.answer_text import AnswerText, StopTexts
from finetune_assistant.inference.dialogue_prompting import DialoguePrompter
from finetune_assistant.inference.kept_cache import KeptCache
from finetune_assistant.inference.loading import LoadedModel
from finetune_assistant.inference.own_thread import OwnThread
from finetune_assistant.inference.prompting import Prompt, Prompter, fitted
from finetune_assistant.inference.sampling import (
    AS_THE_MODEL,
    LONGEST_ANSWER,
    Sampling,
    end_ids,
    generation_config,
    longest_answer,
    window_of,
)
from finetune_trainer.data.dialogues import Message

if TYPE_CHECKING:
    import torch

Stopped = Literal["end", "length", "interrupted"]
OnText = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back. `left_out`: messages that the context window had no room for."""

    text: str
    stopped: Stopped
    prompt_tokens: int
    kept_tokens: int  # of the prompt's, those that the model had read in earlier turns
    new_tokens: int
    left_out: int
    seconds: float
    first_seconds: float  # until the first token
    preamble_tokens: int = 0  # of the prompt's, those of the prompt file under dialogue prompting
    tuned_tokens: int | None = None  # what the prompt would have been for this model fine-tuned; None: it has a template


class Chat:
    """One dialogue with one model. For one thread."""

    def __init__(
        self,
        model: Any,
        prompter: Prompter,
        *,
        system: str | None = None,
        sampling: Sampling = AS_THE_MODEL,
        longest_answer: int = LONGEST_ANSWER,
        thread: OwnThread | None = None,
    ) -> None:
        """`model`: a transformers causal language model. `system` replaces the template's own system text. `thread`: that which loaded it.

        `longest_answer` counts where neither `sampling` nor the model's generation config says how long answers may be. Raises InvalidData
        when a prompt file leaves no room for a question.
        """
        self._model = model
        self._prompter = prompter
        self._system = [] if system is None else [Message(role="system", content=system)]
        self._sampling = sampling
        self._otherwise = longest_answer
        self._kept = KeptCache()
        self._thread = thread or OwnThread()
        self.messages: list[Message] = list(self._system)
        self.turns: list[Answer] = []
        if isinstance(prompter, DialoguePrompter):
            prompter.check_window(self.window - self._longest_answer())
        if sampling.seed is not None:
            import torch

            torch.manual_seed(sampling.seed)

    @classmethod
    def of(
        cls, loaded: LoadedModel, *, system: str | None = None, sampling: Sampling = AS_THE_MODEL, thread: OwnThread | None = None
    ) -> "Chat":
        """A chat with a model that was loaded, in `thread` if that is given."""
        return cls(loaded.model, loaded.prompter, system=system, sampling=sampling, longest_answer=loaded.longest_answer, thread=thread)

    @property
    def window(self) -> int:
        """Most tokens that prompt and answer may have together."""
        return window_of(self._model.config)

    def reset(self) -> None:
        """Forget the dialogue; the system text stays."""
        self.messages = list(self._system)
        self.turns = []

    def go_on_with(self, messages: Sequence[Message]) -> None:
        """Another dialogue in place of this one."""
        self.messages, self.turns = list(messages), []

    def set_system(self, text: str | None) -> None:
        """Another system text from now on, for the talk so far as well; None: the template's own."""
        talk = [message for message in self.messages if message.role != "system"]
        self._system = [] if text is None else [Message(role="system", content=text)]
        self.messages = [*self._system, *talk]

    def ask(self, question: str, on_text: OnText = lambda _text: None) -> Answer:
        """Answer `question`; `on_text` gets the answer piece by piece. KeyboardInterrupt ends the answer, which is kept as far as it got.

        Raises InvalidData when the question is too long; the dialogue is then as before.
        """
        return self._answer([*self.messages, Message(role="user", content=question)], on_text)

    def retry(self, on_text: OnText = lambda _text: None) -> Answer:
        """Answer the last question once more; the answer before is forgotten. Raises InvalidData when there was none."""
        last = max((index for index, message in enumerate(self.messages) if message.role == "user"), default=None)
        if last is None:
            raise InvalidData("there is no question to answer again; ask one")
        before, self.turns = self.turns, self.turns[:-1]
        try:
            return self._answer(self.messages[: last + 1], on_text)
        except Exception:
            self.turns = before
            raise

    def _answer(self, asked: list[Message], on_text: OnText) -> Answer:
        began = time.monotonic()
        longest = self._longest_answer()
        prompt = fitted(asked, self._prompter.encode, self.window - longest)
        stop = threading.Event()
        stream = _Stream(
            AnswerText(self._prompter.decode, lead=self._prompter.answer_lead, stop_texts=self._prompter.stop_texts), stop, began
        )
        cache, kept = self._kept.taken(prompt.ids)
        generated = self._thread.begin(lambda: self._generate(prompt.ids, cache, longest, stream))
        interrupted = False
        try:
            stream.follow(on_text)
        except KeyboardInterrupt:
            stop.set()
            interrupted = True
        generated.result()
        self.messages = [*asked, Message(role="assistant", content=stream.text)]
        preamble, tuned = self._cost(prompt)
        answer = Answer(
            text=stream.text,
            stopped="interrupted" if interrupted else "end" if self._has_ended(stream) else "length",
            prompt_tokens=len(prompt.ids),
            kept_tokens=kept,
            new_tokens=len(stream.ids),
            left_out=prompt.left_out,
            seconds=time.monotonic() - began,
            first_seconds=stream.first_seconds,
            preamble_tokens=preamble,
            tuned_tokens=tuned,
        )
        self.turns.append(answer)
        return answer

    def _longest_answer(self) -> int:
        return longest_answer(self._model, self._sampling, self._otherwise)

    def _cost(self, prompt: Prompt) -> tuple[int, int | None]:
        """Tokens of the preamble, and of the same messages after fine-tuning; a model with a template has nothing to compare."""
        if not isinstance(self._prompter, DialoguePrompter):
            return 0, None
        return self._prompter.preamble_tokens, self._prompter.tuned_tokens(prompt.messages)

    def _has_ended(self, stream: "_Stream") -> bool:
        ends = end_ids(self._model.generation_config.eos_token_id, self._prompter.stop_ids)
        return stream.found_stop_text or (bool(stream.ids) and stream.ids[-1] in ends)

    def _generate(self, ids: list[int], cache: Any, max_new_tokens: int, stream: "_Stream") -> None:
        """In the other thread: generate into `stream`, which ends whatever happens."""
        import torch
        from transformers import StoppingCriteriaList

        try:
            input_ids = torch.tensor([ids], device=self._model.device)
            config = generation_config(self._model, self._sampling, max_new_tokens=max_new_tokens, stop_ids=self._prompter.stop_ids)
            config.return_dict_in_generate = True
            if cache is not None:
                config.cache_implementation = None  # of a new cache; transformers (5.23) refuses both
            criteria: list[Any] = [stream.is_stopped]
            if self._prompter.stop_texts:
                texts = StopTexts(self._prompter.decode, self._prompter.stop_texts, prompt_length=len(ids))
                criteria.append(texts)
            output = self._model.generate(
                input_ids,
                attention_mask=torch.ones_like(input_ids),
                generation_config=config,
                stopping_criteria=StoppingCriteriaList(criteria),
                streamer=stream,
                **({} if cache is None else {"past_key_values": cache}),
            )
            if self._prompter.stop_texts:
                stream.found_stop_text = bool(texts.ended_at)
            self._kept.keep(output)
        finally:
            stream.close()


class _Stream:
    """Tokens from the generating thread, as text in the asking one. transformers' streamer protocol: `put` and `end`."""

    def __init__(self, text: AnswerText, stop: threading.Event, began: float) -> None:
        self._answer = text
        self._stop = stop
        self._began = began
        self._queue: queue.Queue[int | None] = queue.Queue()
        self._prompt_seen = False
        self.ids: list[int] = []
        self.first_seconds = 0.0
        self.found_stop_text = False

    @property
    def text(self) -> str:
        """All that was shown."""
        return self._answer.text

    def put(self, value: "torch.Tensor") -> None:
        """The prompt first, then each token."""
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        for token_id in value.reshape(-1).tolist():
            self._queue.put(int(token_id))

    def end(self) -> None:
        """Generation is over; `close` says so, also when it failed."""

    def close(self) -> None:
        """Nothing more will come."""
        self._queue.put(None)

    def is_stopped(self, input_ids: "torch.Tensor", _scores: Any, **_kwargs: Any) -> "torch.Tensor":
        """transformers' stopping criterion: one answer a sequence."""
        import torch

        return torch.full((input_ids.shape[0],), self._stop.is_set(), dtype=torch.bool, device=input_ids.device)

    def follow(self, on_text: OnText) -> None:
        """Pass text on as it becomes whole, until the end."""
        while (token_id := self._queue.get()) is not None:
            if not self.ids:
                self.first_seconds = time.monotonic() - self._began
            self.ids.append(token_id)
            if new := self._answer.add(token_id):
                on_text(new)
        if rest := self._answer.close():
            on_text(rest)
