"""The story of an evaluation: the input is checked whole, then each model is loaded, asked everything, and compared with the first.

In: names, as a user types them. Out: an Evaluation. Nothing slow begins before all that can be wrong in the input has been looked at.
"""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_assistant.evaluation.code_tasks import WHAT, CodeTasks, code_tasks, measured_code
from finetune_assistant.evaluation.compare import differences
from finetune_assistant.evaluation.contamination import contamination_notes
from finetune_assistant.evaluation.harness import HarnessSettings, LoadedTasks, language_model, loaded_tasks, measured_tasks, refuse_device
from finetune_assistant.evaluation.model_files import ModelFiles, model_files, tokenizer_folder
from finetune_assistant.evaluation.perplexity import encoder_of, perplexity, read_dialogues
from finetune_assistant.evaluation.results import EvaluatedModel, Evaluation, Measurement
from finetune_assistant.evaluation.tasks import chosen_tasks, need_harness
from finetune_assistant.sampling import window_of
from finetune_trainer.data.dialogues import Dialogue

Progress = Callable[[str], Callable[[int, int], None]]
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is measured, of which models; the first is the base.

    `task_folder`: where definitions of tasks are written. `samples`: answers to each prompt of tasks that run code; `pictures`: where
    those that they draw go, None for nowhere.
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    task_data: Path | None
    perplexity: tuple[str, ...]
    task_folder: Path
    samples: int = 10
    pictures: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """The same, looked up and loaded."""

    tasks: LoadedTasks | None
    code: CodeTasks | None
    dialogues: dict[str, list[Dialogue]]
    settings: HarnessSettings


def evaluation(wanted: Wanted, settings: HarnessSettings, progress: Progress, note: Note) -> Evaluation:
    """Measure all models. `progress(what)` gives what to tell how far it is; `note` gets what a reader of the numbers must know.

    Raises InvalidInput for what is wrong with a name, a file or a setting, RunFailed when memory ends.
    """
    notes: list[str] = []

    def keep(text: str) -> None:
        if text not in notes:
            notes.append(text)
            note(text)

    refuse_device(settings.device)
    models = [model_files(name) for name in wanted.models]
    asked = _asked(wanted, settings, models, keep)
    measured = [_measured(files, asked, progress, keep) for files in models]
    if len({one.chat_template for model in measured for one in model.results}) > 1:
        keep("models that have a chat template are asked in it, the others in plain text; --no-chat-template asks all in plain text")
    compared = [each for tuned in measured[1:] for each in differences(measured[0], tuned, seed=settings.seed or 0)]
    return Evaluation(models=measured, differences=compared, settings=_settings(settings), notes=notes)


def _asked(wanted: Wanted, settings: HarnessSettings, models: Sequence[ModelFiles], note: Note) -> _Asked:
    """All but models. Raises InvalidInput."""
    names = [name for name in wanted.tasks if name not in WHAT]
    if names or wanted.perplexity:
        need_harness()
    tasks = chosen_tasks(names, wanted.task_data, wanted.task_folder) if names else None
    code = code_tasks(wanted.tasks, wanted.task_data, wanted.samples, settings.limit, wanted.pictures)
    dialogues = read_dialogues(wanted.perplexity, settings.limit, note)
    if tasks is not None:
        runs = [files.run_folder for files in models if files.run_folder is not None]
        for text in (*tasks.notes, *(text for run in runs for text in contamination_notes(run, tasks.evaluation_files))):
            note(text)
    loaded = None if tasks is None else loaded_tasks(tasks, settings.num_fewshot)
    return _Asked(tasks=loaded, code=code, dialogues=dialogues, settings=settings)


def _measured(files: ModelFiles, asked: _Asked, progress: Progress, note: Note) -> EvaluatedModel:
    """One model; what was loaded is gone from memory afterwards."""
    began = time.monotonic()
    results: list[Measurement] = []
    model: Any = None
    if asked.tasks is not None or asked.dialogues:
        harness = language_model(files, asked.settings, progress(files.name), note)
        model = harness.model
        results += [] if asked.tasks is None else measured_tasks(files, harness, asked.tasks, asked.settings)
        results += _perplexities(files, model, harness.max_length, asked, progress, note)
        del harness
    if asked.code is not None:
        model = None  # its memory is needed
        gc.collect()
        found, model = _code(files, asked.code, asked.settings, progress)
        results += found
    evaluated = EvaluatedModel(
        model=files.name,
        digest=files.digest,
        revision=getattr(model.config, "_commit_hash", None) or files.revision,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        window=window_of(model.config),
        seconds=time.monotonic() - began,
        results=tuple(results),
    )
    del model
    gc.collect()
    return evaluated


def _perplexities(files: ModelFiles, model: Any, window: int, asked: _Asked, progress: Progress, note: Note) -> list[Measurement]:
    if not asked.dialogues:
        return []
    encoder = encoder_of(files.name, tokenizer_folder(files), note)
    settings = asked.settings
    return [
        one
        for source, dialogues in asked.dialogues.items()
        for one in perplexity(
            model,
            encoder,
            source,
            dialogues,
            window=window,
            batch_size=settings.batch_size,
            limit=settings.limit,
            advance=progress(f"{files.name}, {source}"),
        )
    ]


def _code(files: ModelFiles, tasks: CodeTasks, settings: HarnessSettings, progress: Progress) -> tuple[list[Measurement], Any]:
    """Loaded anew, with what talks to it. The measurements, and the model."""
    from finetune_assistant.loading import Dtype, load

    dtypes: dict[str, Dtype] = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
    loaded = load(files.name, dtype=dtypes.get(settings.dtype, "auto"))
    if settings.device is not None:
        loaded.model.to(settings.device)
    measured = measured_code(
        loaded, tasks, chat_template=settings.chat_template, batch_size=settings.batch_size, seed=settings.seed or 0, progress=progress
    )
    return measured, loaded.model


def _settings(settings: HarnessSettings) -> dict[str, Any]:
    return {
        "numFewshot": settings.num_fewshot,
        "limit": settings.limit,
        "batchSize": settings.batch_size,
        "seed": settings.seed,
        "chatTemplate": settings.chat_template,
    }
