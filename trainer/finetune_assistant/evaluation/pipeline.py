"""The story of an evaluation: the input is checked whole, then each model is loaded, asked everything, and compared with the first.

In: names, as a user types them. Out: an Evaluation. Nothing slow begins before all that can be wrong in the input has been looked at.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune_assistant.evaluation.code_tasks import WHAT, CodeTasks, code_tasks, measured_code
from finetune_assistant.evaluation.compare import differences
from finetune_assistant.evaluation.contamination import contamination_notes
from finetune_assistant.evaluation.harness import HarnessSettings, LoadedTasks, language_model, loaded_tasks, measured_tasks, refuse_device
from finetune_assistant.evaluation.kept_parts import KeptParts, Part
from finetune_assistant.evaluation.model_files import ModelFiles, model_files, tokenizer_folder
from finetune_assistant.evaluation.perplexity import encoder_of, perplexity, read_dialogues
from finetune_assistant.evaluation.results import EvaluatedModel, Evaluation, Measurement
from finetune_assistant.evaluation.tasks import chosen_tasks, need_harness
from finetune_assistant.inference.dialogue_prompting import read_prompt
from finetune_assistant.inference.loading import release_memory
from finetune_assistant.inference.sampling import window_of
from finetune_trainer.data.dialogues import Dialogue

Progress = Callable[[str], Callable[[int, int], None]]
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is measured, of which models; the first is the base.

    `called`: what the models are called in results, where that is something else. `task_folder`: where definitions of tasks are written.
    `samples`: answers to each prompt of tasks that run code; `pictures`: where those that they draw go, None for nowhere. `prompt`: the
    dialogues by which a model without a chat template is asked for them; None: it goes on with functions, and plots have the usual ones.
    """

    models: tuple[str, ...]
    called: tuple[str, ...] = ()
    tasks: tuple[str, ...]
    task_data: Path | None
    perplexity: tuple[str, ...]
    task_folder: Path
    samples: int = 10
    pictures: Path | None = None
    prompt: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """The same, looked up and loaded."""

    tasks: list[LoadedTasks]  # what is asked together
    code: CodeTasks | None
    dialogues: dict[str, list[Dialogue]]
    settings: HarnessSettings
    prompt: str | None
    kept: KeptParts | None


def evaluation(wanted: Wanted, settings: HarnessSettings, progress: Progress, note: Note, *, kept: KeptParts | None = None) -> Evaluation:
    """Measure all models. `progress(what)` gives what to tell how far it is; `note` gets what a reader of the numbers must know.

    `kept`: tasks are asked one after another, and those that are kept of a model aren't asked again. Perplexity is.
    Raises InvalidInput for what is wrong with a name, a file or a setting, RunFailed when memory ends.
    """
    notes: list[str] = []

    def keep(text: str) -> None:
        if text not in notes:
            notes.append(text)
            note(text)

    refuse_device(settings.device)
    models = [model_files(name) for name in wanted.models]
    if wanted.called:
        models = [replace(files, name=name) for files, name in zip(models, wanted.called, strict=True)]
    asked = _asked(wanted, settings, models, kept, keep)
    measured = [_measured(files, asked, progress, keep) for files in models]
    if len({one.chat_template for model in measured for one in model.results}) > 1:
        keep("models that have a chat template are asked in it, the others in plain text; --no-chat-template asks all in plain text")
    compared = [each for tuned in measured[1:] for each in differences(measured[0], tuned, seed=settings.seed or 0)]
    return Evaluation(models=measured, differences=compared, settings=_settings(settings) | {"prompt": wanted.prompt}, notes=notes)


def _asked(wanted: Wanted, settings: HarnessSettings, models: Sequence[ModelFiles], kept: KeptParts | None, note: Note) -> _Asked:
    """All but models. Raises InvalidInput."""
    names = [name for name in wanted.tasks if name not in WHAT]
    if names or wanted.perplexity:
        need_harness()
    tasks = chosen_tasks(names, wanted.task_data, wanted.task_folder) if names else None
    if wanted.prompt is not None:
        read_prompt(wanted.prompt)
    code = code_tasks(wanted.tasks, wanted.task_data, wanted.samples, settings.limit, wanted.pictures)
    dialogues = read_dialogues(wanted.perplexity, settings.limit, note)
    if tasks is not None:
        found = [
            text
            for files in models
            if files.run_folder is not None
            for text in contamination_notes(files.run_folder, tasks.evaluation_files, called=files.name if wanted.called else "")
        ]
        for text in (*tasks.notes, *found):
            note(text)
    loaded = [] if tasks is None else loaded_tasks(tasks, settings.num_fewshot, apart=kept is not None)
    return _Asked(tasks=loaded, code=code, dialogues=dialogues, settings=settings, prompt=wanted.prompt, kept=kept)


def _measured(files: ModelFiles, asked: _Asked, progress: Progress, note: Note) -> EvaluatedModel:
    """One model; what was loaded is gone from memory afterwards."""
    parts = _benchmarks(files, asked, progress, note)
    if asked.code is not None:
        release_memory()  # it is needed
        parts.append(_code(files, asked.code, asked, progress, note))
    release_memory()
    last = parts[-1]
    return EvaluatedModel(
        model=files.name,
        digest=files.digest,
        revision=last.revision or files.revision,
        dtype=last.dtype,
        device=last.device,
        window=last.window,
        seconds=sum(part.seconds for part in parts),
        results=tuple(one for part in parts for one in part.results),
    )


def _benchmarks(files: ModelFiles, asked: _Asked, progress: Progress, note: Note) -> list[Part]:
    """What lm-eval's model is asked: tasks, of which those that are kept are not asked again, and perplexity."""
    parts: list[Part] = []
    harness: Any = None
    say = progress(files.name)
    began = time.monotonic()

    def loaded() -> Any:
        nonlocal harness
        harness = harness or language_model(files, asked.settings, lambda done, total: say(done, total), note)
        return harness

    def part(results: Sequence[Measurement]) -> Part:
        nonlocal began
        since, began = began, time.monotonic()
        return _part(loaded().model, results, began - since)

    for tasks in asked.tasks:
        found = None if asked.kept is None else asked.kept.find(_identity(files), tasks.names)
        if found is None:
            say = progress(f"{files.name}, {', '.join(tasks.names)}") if asked.kept is not None else say
            found = part(measured_tasks(files, loaded(), tasks, asked.settings))
            if asked.kept is not None:
                asked.kept.keep(_identity(files), tasks.names, found)
        parts.append(found)
    if asked.dialogues:
        parts.append(part(_perplexities(files, loaded().model, loaded().max_length, asked, progress, note)))
    return parts


def _part(model: Any, results: Sequence[Measurement], seconds: float) -> Part:
    return Part(
        revision=getattr(model.config, "_commit_hash", None),
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        window=window_of(model.config),
        seconds=seconds,
        results=tuple(results),
    )


def _identity(files: ModelFiles) -> str:
    return files.digest or f"{files.name}@{files.revision}"


def _perplexities(files: ModelFiles, model: Any, window: int, asked: _Asked, progress: Progress, note: Note) -> list[Measurement]:
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


def _code(files: ModelFiles, tasks: CodeTasks, asked: _Asked, progress: Progress, note: Note) -> Part:
    """Tasks whose answers are run, of the model loaded anew with what talks to it."""
    from finetune_assistant.inference.loading import DEFAULT_PROMPT, Dtype, load

    settings = asked.settings
    if asked.kept is not None and (found := asked.kept.find(_identity(files), tasks.names)) is not None:
        return found
    began = time.monotonic()
    dtypes: dict[str, Dtype] = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
    dtype: Dtype = dtypes.get(settings.dtype, "auto")
    prompt = asked.prompt or DEFAULT_PROMPT
    loaded = replace(load(files.place, revision=files.revision, base_prompt=prompt, dtype=dtype), name=files.name)
    if asked.prompt is not None or tasks.wants_plots:
        for text in loaded.notes:
            note(text)
    if settings.device is not None:
        loaded.model.to(settings.device)
    as_chat = True if asked.prompt is not None else settings.chat_template
    measured = measured_code(loaded, tasks, as_chat=as_chat, batch_size=settings.batch_size, seed=settings.seed or 0, progress=progress)
    part = _part(loaded.model, measured, time.monotonic() - began)
    if asked.kept is not None:
        asked.kept.keep(_identity(files), tasks.names, part)
    return part


def _settings(settings: HarnessSettings) -> dict[str, Any]:
    return {
        "numFewshot": settings.num_fewshot,
        "limit": settings.limit,
        "batchSize": settings.batch_size,
        "seed": settings.seed,
        "chatTemplate": settings.chat_template,
    }
