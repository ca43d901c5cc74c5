"""Answers of several models to the same prompts, for people who compare and for judges: a file a model and set of questions.

In: a model's folder, and questions. Out: files as `finetune generate` writes them, which go on after any end; and the answers to a prompt
side by side. Who is base and who is tuned is unknown here, as is what becomes of the answers.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from finetune_api.errors import InvalidData
from finetune_assistant.answers.answer_file import Progress, answer_file, encoded
from finetune_assistant.inference.dialogue_prompting import SHORT, DialoguePrompter, read_prompt
from finetune_assistant.inference.loading import LoadedModel, load, release_memory
from finetune_assistant.inference.sampling import Sampling, longest_answer, window_of
from finetune_assistant.prompts.prompt_rows import PromptRow
from finetune_trainer.files.atomic import make_folder, write_atomically

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """What every model is asked, and how answers are drawn. `name`: of the files."""

    name: str
    rows: Sequence[PromptRow]
    sampling: Sampling

    def file(self, folder: Path, model: str) -> Path:
        """Where a model's answers are."""
        return folder / f"{self.name}-{model}.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A model that is asked. `key`: in names of files; `name`: for people; `digest`: what identifies its weights, wherever they lie."""

    key: str
    name: str
    folder: Path
    digest: str


def answer_all(
    asked: Asked,
    questions: Sequence[Questions],
    folder: Path,
    *,
    batch_size: int,
    progress: Callable[[str], Callable[[int, int], None]],
    note: Note,
    saved: Callable[[], None] = lambda: None,
) -> None:
    """Let one model answer all `questions`; what is in the files already isn't asked again, and files of other prompts or weights are
    replaced. The model is gone from memory afterwards.

    Prompts that don't fit the model's window are left out, and noted. `saved` is called after each file. Raises InvalidModel, or
    InvalidData where no prompt of a set fits.
    """
    make_folder(folder)
    complete, identity = folder / f"{asked.key}.complete", _identity(asked, questions)
    if complete.is_file() and complete.read_text(encoding="utf-8") == identity:  # it needn't be loaded
        return
    loaded = _loaded(asked, questions, note)
    for each in questions:
        say = progress(f"{asked.name}, {each.name}")

        def show(done: Progress, say: Callable[[int, int], None] = say) -> None:
            say(done.done, done.total)

        answered = partial(
            answer_file,
            loaded,
            _fitting(loaded, each, note),
            each.file(folder, asked.key),
            sampling=each.sampling,
            batch_size=batch_size,
            asked_with={"weights": asked.digest},
            on_progress=show,
        )
        try:
            answered()
        except InvalidData:  # a file of other prompts or weights: it is ours, and nobody's work is lost
            answered(overwrite=True)
        saved()
    del loaded
    release_memory()
    write_atomically(complete, identity)


def _identity(asked: Asked, questions: Sequence[Questions]) -> str:
    found = [asked.digest, *([each.name, repr(each.sampling), [row.digest for row in each.rows]] for each in questions)]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def _loaded(asked: Asked, questions: Sequence[Questions], note: Note) -> LoadedModel:
    loaded = replace(load(str(asked.folder)), name=asked.name)
    prompter = loaded.prompter
    if not isinstance(prompter, DialoguePrompter):
        return loaded
    room = window_of(loaded.model.config) - max(longest_answer(loaded.model, each.sampling, loaded.longest_answer) for each in questions)
    if prompter.preamble_tokens > room // 2:
        from transformers import AutoTokenizer

        short = DialoguePrompter(AutoTokenizer.from_pretrained(asked.folder), read_prompt(str(SHORT)), asked.name)
        loaded = replace(loaded, prompter=short)
    note(f"{asked.name} has no chat template, so it answers as a base model, by dialogue prompting")
    return loaded


def _fitting(loaded: LoadedModel, questions: Questions, note: Note) -> list[PromptRow]:
    prompts, wrong = encoded(loaded, questions.rows, questions.sampling)
    if not prompts:
        raise InvalidData(f"{loaded.name}: none of the prompts fits its window: {next(iter(wrong.values()))}")
    if wrong:
        left_out = f"{len(wrong)} of {len(questions.rows)} prompts ({questions.name})"
        note(f"{loaded.name} is not asked {left_out}, which don't fit its window of {window_of(loaded.model.config)} tokens")
    return [row for row in questions.rows if row.number in prompts]


def side_by_side(files: Mapping[str, Path]) -> list[dict[str, Any]]:
    """The answers to each prompt that all `files` have, by the files' keys: `{"prompt": ..., key: answer, ...}`, in the first file's order.

    `prompt` is a text, or messages, as in the files. Raises InvalidData when the files have no prompt in common.
    """
    by_prompt: dict[str, dict[str, Any]] = {}
    for name, path in files.items():
        for row in _rows(path):
            asked = row.get("messages") or row.get("prompt")
            by_prompt.setdefault(json.dumps(asked, sort_keys=True), {"prompt": asked})[name] = row["answer"]
    found = [row for row in by_prompt.values() if all(name in row for name in files)]
    if not found:
        raise InvalidData(f"{', '.join(map(str, files.values()))}: no prompt is answered in all of them")
    return found


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
