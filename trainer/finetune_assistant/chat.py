"""Talking to a model: a dialogue that grows, and answers that are shown while they are generated.

In: a model's name (an exported folder, a run folder, a Hub id) and questions. Out: answers. Generation runs in a thread, so that
Ctrl-C ends an answer and not the session. Terminals, files and JSON are unknown here.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finetune_api.errors import InvalidModel
from finetune_assistant.prompting import ForeignPrompter, Prompter, TrainedPrompter, fitted
from finetune_trainer.data.dialogues import Message

if TYPE_CHECKING:
    import torch

Stopped = Literal["end", "length", "interrupted"]
TEMPLATE_FILE = "dialogue_template.json"
JOB_FILE = "finetunejob.yaml"
LONGEST_ANSWER = 256  # of a model that says nothing about it
# Enough for prompting, beside config.json; weights are transformers' business.
_PROMPT_FILES = (TEMPLATE_FILE, JOB_FILE, "tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How an answer is drawn; None leaves it to the model's generation config. `greedy` takes the likeliest token each time."""

    greedy: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back. `left_out`: messages that the context window had no room for."""

    text: str
    stopped: Stopped
    prompt_tokens: int
    new_tokens: int
    left_out: int
    seconds: float


class Chat:
    """One dialogue with one model. For one thread."""

    def __init__(
        self,
        model: Any,
        prompter: Prompter,
        *,
        system: str | None = None,
        sampling: Sampling = Sampling(),
        longest_answer: int = LONGEST_ANSWER,
    ) -> None:
        """`model`: a transformers causal language model. `system` replaces the template's own system text.

        `longest_answer` counts where neither `sampling` nor the model's generation config says how long answers may be.
        """
        self._model = model
        self._prompter = prompter
        self._system = [] if system is None else [Message(role="system", content=system)]
        self._sampling = sampling
        self._longest = longest_answer
        self.messages: list[Message] = list(self._system)
        if sampling.seed is not None:
            import torch

            torch.manual_seed(sampling.seed)

    @property
    def window(self) -> int:
        """Most tokens that prompt and answer may have together."""
        config = self._model.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 1024)

    def reset(self) -> None:
        """Forget the dialogue; the system text stays."""
        self.messages = list(self._system)

    def ask(self, question: str, on_text: Callable[[str], None] = lambda _text: None) -> Answer:
        """Answer `question`; `on_text` gets the answer piece by piece. KeyboardInterrupt ends the answer, which is kept as far as it got.

        Raises InvalidData when the question is too long; the dialogue is then as before.
        """
        began = time.monotonic()
        asked = [*self.messages, Message(role="user", content=question)]
        longest = self._longest_answer()
        prompt = fitted(asked, self._prompter.encode, self.window - longest)
        stop = threading.Event()
        stream = _Stream(self._prompter.decode, stop)
        worker = threading.Thread(target=self._generate, args=(prompt.ids, longest, stream), name="generation", daemon=True)
        worker.start()
        try:
            text = stream.follow(on_text)
            interrupted = False
        except KeyboardInterrupt:
            stop.set()
            text, interrupted = stream.text, True
        worker.join()
        if stream.failure is not None:
            raise stream.failure
        self.messages = [*asked, Message(role="assistant", content=text)]
        ended = bool(stream.ids) and stream.ids[-1] in self._stop_ids()
        return Answer(
            text=text,
            stopped="interrupted" if interrupted else "end" if ended else "length",
            prompt_tokens=len(prompt.ids),
            new_tokens=len(stream.ids),
            left_out=prompt.left_out,
            seconds=time.monotonic() - began,
        )

    def _longest_answer(self) -> int:
        """Tokens reserved for the answer: at most half of the window."""
        wanted = self._sampling.max_new_tokens or self._model.generation_config.max_new_tokens or self._longest
        return min(int(wanted), self.window // 2)

    def _stop_ids(self) -> list[int]:
        own = self._model.generation_config.eos_token_id
        own = own if isinstance(own, list) else [] if own is None else [own]
        return list(dict.fromkeys([*own, *self._prompter.stop_ids]))

    def _generate(self, ids: list[int], max_new_tokens: int, stream: "_Stream") -> None:
        """In the thread: generate into `stream`, whatever happens."""
        import torch
        from transformers import StoppingCriteriaList

        try:
            input_ids = torch.tensor([ids], device=self._model.device)
            self._model.generate(
                input_ids,
                attention_mask=torch.ones_like(input_ids),
                generation_config=self._generation_config(max_new_tokens),
                stopping_criteria=StoppingCriteriaList([stream.is_stopped]),
                streamer=stream,
            )
        except Exception as error:  # handed to the caller's thread, which raises it
            stream.failure = error
        finally:
            stream.close()

    def _generation_config(self, max_new_tokens: int) -> Any:
        """The model's own, changed where the user asks for something else."""
        import copy

        config = copy.deepcopy(self._model.generation_config)
        sampling = self._sampling
        config.max_new_tokens, config.max_length = max_new_tokens, None
        config.eos_token_id = self._stop_ids() or None
        if config.pad_token_id is None:
            config.pad_token_id = (config.eos_token_id or [0])[-1]
        given = {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
        if sampling.greedy or sampling.temperature == 0:
            config.do_sample = False
            given = {}
        elif any(value is not None for value in given.values()):
            config.do_sample = True
        if not config.do_sample:
            # Transformers' own defaults: it remarks on others, and for None takes the model's (5.23).
            config.temperature, config.top_k, config.top_p = 1.0, 50, 1.0
        for name, value in given.items():
            if value is not None:
                setattr(config, name, value)
        return config


class _Stream:
    """Tokens from the generating thread, as text in the asking one. transformers' streamer protocol: `put` and `end`."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: threading.Event) -> None:
        self._decode = decode
        self._stop = stop
        self._queue: queue.Queue[int | None] = queue.Queue()
        self._prompt_seen = False
        self.ids: list[int] = []
        self.text = ""
        self.failure: Exception | None = None

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

    def follow(self, on_text: Callable[[str], None]) -> str:
        """Pass text on as it becomes whole; all of it."""
        while (token_id := self._queue.get()) is not None:
            self.ids.append(token_id)
            text = self._decode(self.ids)
            # A character of several tokens decodes to U+FFFD until the last one is there.
            if not text.endswith("\ufffd") and text.startswith(self.text):
                on_text(text[len(self.text) :])
                self.text = text
        rest = self._decode(self.ids)
        if rest.startswith(self.text) and rest != self.text:
            on_text(rest[len(self.text) :])
            self.text = rest
        return self.text


def load(name: str, *, revision: str | None = None, system: str | None = None, sampling: Sampling = Sampling()) -> Chat:
    """A chat with an exported folder, a run folder (its model/), or a model on the Hub. Raises InvalidModel."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    place = model_place(name)
    logging.disable_progress_bar()
    try:
        folder = Path(place) if Path(place).is_dir() else _fetched(place, revision)
        if (folder / TEMPLATE_FILE).is_file():
            prompter: Prompter = TrainedPrompter(folder)
        else:
            prompter = ForeignPrompter(AutoTokenizer.from_pretrained(place, revision=revision), name)
        model = AutoModelForCausalLM.from_pretrained(place, revision=revision)
    except (OSError, ValueError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InvalidModel(f"{name} can't be loaded: {reason}; give an exported folder, a run folder, or a model on the Hub") from error
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return Chat(model.eval(), prompter, system=system, sampling=sampling, longest_answer=_longest_answer(folder))


def _longest_answer(folder: Path) -> int:
    """As the job says that lies beside the weights; it is not in generation_config.json, where engines would take it for a bound."""
    import yaml

    try:
        job = yaml.safe_load((folder / JOB_FILE).read_text(encoding="utf-8"))
        return max(1, int(job["spec"]["generation"]["maxNewTokens"]))
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return LONGEST_ANSWER


def model_place(name: str) -> str:
    """The folder of `name`, or `name` itself when it is a Hub id. Raises InvalidModel for a folder without a model."""
    path = Path(name)
    if (path / "run.json").is_file():
        path = path / "model"
        if not path.is_dir():
            raise InvalidModel(f"{name} is a run without an exported model yet; export a checkpoint with `finetune export {name} --step N`")
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InvalidModel(f"{path} holds no model: it has no config.json; give an exported folder or a run folder")
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise InvalidModel(f"{name} is no folder, and no name of a model on the Hub (org/name); check the path")
    return name


def _fetched(name: str, revision: str | None) -> Path:
    """The folder in the Hub's cache with the files that prompting needs; those that the model lacks are left out.

    Raises OSError when there is no such model or revision, or no network.
    """
    from transformers.utils import cached_file

    config = cached_file(name, "config.json", revision=revision)
    for file in _PROMPT_FILES:
        cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)
    return Path(config).parent
