"""From a file of prompts to a file of answers: read, encode, generate, write, and go on where a run before was ended.

In: a loaded model, rows and settings. Out: JSON lines, in the order of the rows. Terminals are unknown here.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from finetune_api.errors import InvalidData
from finetune_assistant.answers.samples_file import ADDED, Key, keys_of_rows, opened
from finetune_assistant.inference.dialogue_prompting import DialoguePrompter
from finetune_assistant.inference.generation import Request, answers, seed_of
from finetune_assistant.inference.loading import LoadedModel
from finetune_assistant.inference.prompting import Prompt, fitted
from finetune_assistant.inference.sampling import Sampling, generation_config, longest_answer, window_of
from finetune_assistant.prompts.prompt_rows import PromptRow

DEFAULT_SEED: Final = 42
_SHOWN_WRONG: Final = 5
# The generation config's fields that change an answer.
_DRAWN_BY: Final = ("do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Answers that are in the file, and tokens that were generated since it was opened."""

    done: int
    total: int
    new_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What became of a run. `before`: answers that the file held already; `ended`: of the new ones, those that came to an end."""

    total: int
    before: int
    ended: int
    new_tokens: int
    left_out: int  # messages that the window had no room for


def answer_file(
    loaded: LoadedModel,
    rows: Sequence[PromptRow],
    output: Path,
    *,
    sampling: Sampling,
    samples: int = 1,
    batch_size: int = 8,
    overwrite: bool = False,
    asked_with: Mapping[str, Any] | None = None,
    on_progress: Callable[[Progress], None] = lambda _progress: None,
) -> Written:
    """Answer `rows`, `samples` times each. `asked_with`: further settings that answers depend on, kept beside the file.

    Raises InvalidData before anything is written: for prompts that don't fit the window, and for a file that was made otherwise.
    """
    prompts = _all_encoded(loaded, rows, sampling)
    seed = DEFAULT_SEED if sampling.seed is None else sampling.seed
    with opened(output, {**_settings(loaded, sampling, seed, samples), **(asked_with or {})}, overwrite=overwrite) as file:
        wanted = list(keys_of_rows(rows, samples))
        _check_none_is_lost(output, file.done, [key for key, _ in wanted])
        missing = [(key, row) for key, row in wanted if key not in file.done]
        before, tokens, ended = len(wanted) - len(missing), 0, 0
        on_progress(Progress(done=before, total=len(wanted), new_tokens=0))
        requests = [Request(ids=prompts[row.number].ids, seed=seed_of(seed, *key)) for key, row in missing]
        for batch in answers(loaded, requests, sampling=sampling, batch_size=batch_size):
            new = []
            for one in batch:
                key, row = missing[one.index]
                left_out = prompts[row.number].left_out
                added = {
                    "answer": one.text,
                    "model": loaded.name,
                    "finish_reason": one.finish_reason,
                    "prompt_tokens": one.prompt_tokens,
                    "new_tokens": one.new_tokens,
                    **({"left_out": left_out} if left_out else {}),
                    **({"sample": key[2]} if samples > 1 else {}),
                }
                file.done[key] = added
                new.append(_row(row, added))
                tokens += one.new_tokens
                ended += one.finish_reason == "end"
            file.append(new)
            on_progress(Progress(done=len(file.done), total=len(wanted), new_tokens=tokens))
        file.put_in_order([_row(row, file.done[key]) for key, row in wanted])
    left_out = sum(prompt.left_out for prompt in prompts.values())
    return Written(total=len(wanted), before=before, ended=ended, new_tokens=tokens, left_out=left_out)


def _row(row: PromptRow, added: Mapping[str, Any]) -> dict[str, Any]:
    return {**{name: value for name, value in row.fields.items() if name not in ADDED}, **added}


def encoded(loaded: LoadedModel, rows: Sequence[PromptRow], sampling: Sampling) -> tuple[dict[int, Prompt], dict[int, str]]:
    """Prompts by the number of their row, and of rows that can't be asked the reason. Raises InvalidData where no row could be."""
    fits = window_of(loaded.model.config) - longest_answer(loaded.model, sampling, loaded.longest_answer)
    if isinstance(loaded.prompter, DialoguePrompter):
        loaded.prompter.check_window(fits)
    found, wrong = {}, {}
    for row in rows:
        try:
            found[row.number] = fitted(row.messages, loaded.prompter.encode, fits)
        except InvalidData as error:
            wrong[row.number] = str(error)
    return found, wrong


def _all_encoded(loaded: LoadedModel, rows: Sequence[PromptRow], sampling: Sampling) -> dict[int, Prompt]:
    """Prompts by the number of their row. Raises InvalidData, which names the first rows that can't be asked."""
    found, wrong = encoded(loaded, rows, sampling)
    if wrong:
        shown = "; ".join(f"row {number}: {why}" for number, why in list(wrong.items())[:_SHOWN_WRONG])
        more = f" (and {len(wrong) - _SHOWN_WRONG:,} more rows)" if len(wrong) > _SHOWN_WRONG else ""
        longest = longest_answer(loaded.model, sampling, loaded.longest_answer)
        window = f"the window of {window_of(loaded.model.config)} tokens, of which {longest} are the answer's (--max-new-tokens)"
        raise InvalidData(f"{shown}{more}: {window}")
    return found


def _settings(loaded: LoadedModel, sampling: Sampling, seed: int, samples: int) -> dict[str, Any]:
    """All that an answer depends on, but its prompt."""
    longest = longest_answer(loaded.model, sampling, loaded.longest_answer)
    config = generation_config(loaded.model, sampling, max_new_tokens=longest, stop_ids=loaded.prompter.stop_ids)
    drawn = {name: getattr(config, name, None) for name in _DRAWN_BY}
    prompter = loaded.prompter
    preamble = hashlib.sha256(prompter.prompt.preamble().encode()).hexdigest()[:16] if isinstance(prompter, DialoguePrompter) else None
    return {
        "model": loaded.name,
        "weights": _weights_identity(loaded),
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "promptFile": preamble,
        **(drawn if drawn["do_sample"] else {"do_sample": False, **{name: drawn[name] for name in _DRAWN_BY[5:]}}),
        "seed": seed,
        "samples": samples,
    }


def _weights_identity(loaded: LoadedModel) -> str | None:
    """A commit of the Hub, or for a local folder a digest of its weight files' names, sizes and times: reading 30 GB twice is too dear."""
    if commit := getattr(loaded.model.config, "_commit_hash", None):
        return str(commit)
    stats = [(path.name, path.stat()) for path in sorted(loaded.folder.glob("*.safetensors"))]
    text = repr([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])
    return hashlib.sha256(text.encode()).hexdigest()[:16] if stats else None


def _check_none_is_lost(output: Path, done: Mapping[Key, Any], wanted: Sequence[Key]) -> None:
    """Answers to prompts that the file of prompts no longer has are somebody's work. Raises InvalidData."""
    if foreign := len(done.keys() - set(wanted)):
        raise InvalidData(f"{output} holds {foreign:,} answers to prompts that are not in the file now; give another file, or --overwrite")
