"""lm-evaluation-harness in this process.

In: a model's folder and names of tasks. Out: measurements. lm-eval's own hf model asks, its own tasks count: the numbers are those of its
own command with the same settings. Around it stands what the command lacks: progress that a caller shows, a word where the window is too
short for the shots, and errors that say what to do.
"""

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.errors import InvalidData, InvalidInput, InvalidModel, RunFailed
from finetune_assistant.evaluation.model_files import ModelFiles
from finetune_assistant.evaluation.results import Measurement
from finetune_assistant.evaluation.tasks import ChosenTasks
from finetune_trainer.data.hub import DataUnreachable

# What lm-eval's command takes where it is told nothing: for Python, NumPy, torch, and the choice of shots.
_OWN_SEEDS = (0, 1234, 1234, 1234)
Advance = Callable[[int, int], None]  # requests answered, of how many
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessSettings:
    """Settings of one run; None leaves a thing to the task, the model or the machine.

    `num_fewshot` holds for every task but those that are defined without shots. `chat_template` None: where the tokenizer has one.
    """

    num_fewshot: int | None = None
    limit: int | None = None
    batch_size: int = 8
    device: str | None = None
    dtype: str = "auto"
    seed: int | None = None
    chat_template: bool | None = None


def measured_tasks(files: ModelFiles, model: Any, tasks: "LoadedTasks", settings: HarnessSettings) -> list[Measurement]:
    """Ask `model`, which `language_model` loaded, all of `tasks`. Raises InvalidModel if it can't be asked so, RunFailed if memory ends."""
    has_template = model.tokenizer.chat_template is not None
    if settings.chat_template and not has_template:
        raise InvalidModel(f"{files.name} has no chat template; leave --chat-template out, or evaluate a chat model")
    template = has_template if settings.chat_template is None else settings.chat_template
    with _quiet():
        found = _evaluated(files, model, tasks, settings, template)
    position = {name: index for index, name in enumerate(tasks.names)}
    measured = measurements(found, settings.limit, template)
    return sorted(measured, key=lambda one: position.get(one.task, position.get(one.group or "", len(position))))


def language_model(files: ModelFiles, settings: HarnessSettings, advance: Advance, note: Note) -> Any:
    """lm-eval's hf model, watched: `advance` hears how far it is, `note` what it cuts. Raises InvalidModel."""
    import torch
    from lm_eval.models.huggingface import HFLM
    from safetensors import SafetensorError

    class Watched(HFLM):  # type: ignore[misc]  # lm-eval has no types
        """The numbers are HFLM's; only looked at on their way."""

        watched_requests: Sequence[Any] = ()

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> Any:
            self._watch(requests)
            return super().loglikelihood(requests, disable_tqdm=True)

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> Any:
            self._watch(requests)
            return super().generate_until(requests, disable_tqdm=True)

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> Any:
            self._watch(requests)
            return super().loglikelihood_rolling(requests, disable_tqdm=True)

        def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None) -> Any:
            if len(requests) == len(self.watched_requests):
                tell_what_is_cut(files.name, self.watched_requests, requests, self.max_length, note)
            return super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)

        def _watch(self, requests: Sequence[Any]) -> None:
            self.watched_requests = requests
            self.set_cache_hook(_Counted(len(requests), advance))

    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    revision = files.revision or "main"
    try:
        with _quiet():
            return Watched(files.place, revision=revision, device=device, dtype=settings.dtype, batch_size=settings.batch_size)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InvalidModel(
            f"{files.name} can't be loaded: {reason}; give an exported folder, a run folder, or a model on the Hub"
        ) from error


def refuse_device(name: str | None) -> None:
    """Raises InvalidInput for a device that isn't here: lm-eval (0.4.13) would take the CPU instead and say nothing."""
    import torch

    try:
        kind = torch.device(name or "cpu").type
    except RuntimeError:
        raise InvalidInput(f"--device {name} is no device of PyTorch; use cpu, cuda, cuda:1, or leave it out") from None
    here = torch.accelerator.current_accelerator()
    if kind != "cpu" and (here is None or here.type != kind):
        raise InvalidInput(f"--device {name}: PyTorch sees no such device here; use cpu, or leave it out")


class _Counted:
    """lm-eval tells each answer to its cache, as soon as it has it; this cache only counts."""

    def __init__(self, total: int, advance: Advance) -> None:
        self._done, self._total, self._advance = 0, total, advance
        advance(0, total)

    def add_partial(self, _kind: str, _request: Any, _answer: Any) -> None:
        self._done += 1
        self._advance(self._done, self._total)


def tell_what_is_cut(model: str, requests: Sequence[Any], encoded: Sequence[Any], window: int, note: Note) -> None:
    """Note tasks whose prompts are longer than the window: lm-eval cuts them from the left (0.4.13), examples first.

    `encoded`: as lm-eval has it, (texts, ids of the context, ids of the answer). Raises InvalidModel where an answer alone is too long.
    """
    cut: Counter[str] = Counter()
    longest = 0
    for request, (_, context, answer) in zip(requests, encoded, strict=True):
        if len(answer) > window:
            raise InvalidModel(
                f"{model}: an answer of {request.task_name} has {len(answer)} tokens, the window {window}; leave the task out"
            )
        if len(context) + len(answer) > window + 1:
            cut[request.task_name] += 1
            longest = max(longest, len(context) + len(answer) - 1)
    if cut:
        where = ", ".join(f"{task} ({times})" for task, times in cut.items())
        note(
            f"{model}: its window of {window} tokens is too short for prompts of up to {longest}, which lost their beginning: {where} "
            "of the requests; use a smaller --num-fewshot, which then stands beside the number"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedTasks:
    """Tasks with their documents and shots, to be asked of one model after another. `loaded`: lm-eval's TaskDict."""

    names: tuple[str, ...]
    loaded: Mapping[str, Any]


def loaded_tasks(tasks: ChosenTasks, num_fewshot: int | None, *, apart: bool = False) -> list[LoadedTasks]:
    """lm-eval's tasks with their data, all together, or `apart`, each name by itself.

    Raises InvalidData; its DataUnreachable where data must be fetched, and another try may go well.
    """
    with _quiet():
        manager = tasks.manager()
        return [_loaded(manager, tasks, names, num_fewshot) for names in ([(name,) for name in tasks.names] if apart else [tasks.names])]


def _loaded(manager: Any, tasks: ChosenTasks, names: tuple[str, ...], num_fewshot: int | None) -> LoadedTasks:
    try:
        loaded = manager.load(list(names))
    except Exception as error:  # of many libraries: no network, no such data set, a package that a task wants
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        where = "is online" if tasks.folder is None else "has its files in --task-data, or is online"
        failure = DataUnreachable if tasks.needs_own and not isinstance(error, ImportError) else InvalidData
        raise failure(f"--tasks {','.join(names)}: lm-eval can't load it ({reason}); run where it {where}") from error
    for name, task in loaded["tasks"].items():
        defined = task.get_config("num_fewshot")
        if defined != 0:  # lm-eval's own rule: what is defined without shots is never given any
            shots = num_fewshot if num_fewshot is not None else defined
            task.set_config(key="num_fewshot", value=shots if shots is not None else tasks.shots(name) or 0)
    return LoadedTasks(names=names, loaded=loaded)


def _seeds(settings: HarnessSettings) -> tuple[int, int, int, int]:
    return _OWN_SEEDS if settings.seed is None else (settings.seed,) * 4


def _evaluated(files: ModelFiles, model: Any, tasks: LoadedTasks, settings: HarnessSettings, template: bool) -> Mapping[str, Any]:
    """What lm-eval's `evaluate` returns, seeded as its command seeds."""
    import random

    import numpy
    import torch
    from lm_eval.evaluator import evaluate

    seed, numpy_seed, torch_seed, shots_seed = _seeds(settings)
    random.seed(seed)
    numpy.random.seed(numpy_seed)
    torch.manual_seed(torch_seed)
    for task in tasks.loaded["tasks"].values():
        task.set_fewshot_seed(seed=shots_seed)
    try:
        found = evaluate(
            lm=model,
            task_dict=tasks.loaded,
            limit=settings.limit,
            log_samples=True,
            apply_chat_template=template,
            fewshot_as_multiturn=template,  # as lm-eval's command does
        )
    except torch.OutOfMemoryError as error:
        smaller = max(1, settings.batch_size // 2)
        raise RunFailed(f"{files.name}: memory ran out with --batch-size {settings.batch_size}; try {smaller}") from error
    assert isinstance(found, dict)  # None on other ranks, and there are none
    return found


def measurements(found: Mapping[str, Any], limit: int | None, template: bool) -> list[Measurement]:
    """lm-eval's results (its `EvalResults`), one value a number; those of groups with the documents of all their members."""
    groups: Mapping[str, list[str]] = found["group_subtasks"]
    parents = {member: group for group, members in groups.items() for member in members}
    measured = []
    for task, numbers in found["results"].items():
        leaves = _leaves(task, groups)
        counts = [found["n-samples"][leaf] for leaf in leaves if leaf in found["n-samples"]]
        for key, value in numbers.items():
            metric, _, chosen = key.partition(",")
            if not chosen or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = numbers.get(f"{metric}_stderr,{chosen}")
            measured.append(
                Measurement(
                    task=task,
                    metric=metric if chosen == "none" else f"{metric} ({chosen})",
                    value=float(value),
                    standard_error=float(error) if isinstance(error, int | float) else None,
                    shots=int(found["n-shot"].get(task) or 0),
                    limit=limit,
                    documents=sum(count["effective"] for count in counts),
                    documents_there=sum(count["original"] for count in counts),
                    chat_template=template,
                    higher_is_better=found["higher_is_better"].get(task, {}).get(metric) is not False,
                    group=parents.get(task),
                    by_document=_by_document(found["samples"], leaves, metric, chosen),
                )
            )
    return measured


def _leaves(task: str, groups: Mapping[str, list[str]]) -> list[str]:
    return [task] if task not in groups else [leaf for member in groups[task] for leaf in _leaves(member, groups)]


def _by_document(samples: Mapping[str, list[Mapping[str, Any]]], leaves: Sequence[str], metric: str, chosen: str) -> dict[str, float]:
    """Keyed by task, place and content, so that only the same document is ever paired. Empty where the metric has no number a document."""
    values = {}
    for leaf in leaves:
        for sample in samples.get(leaf, ()):
            if sample["filter"] == chosen and isinstance(value := _number(sample.get(metric)), float):
                values[f"{leaf} {sample['doc_id']} {sample['doc_hash']}"] = value
    return values


def _number(value: Any) -> float | None:
    import numbers

    return float(value) if isinstance(value, numbers.Real) else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of lm-eval, datasets and Transformers on the streams: their bars and remarks would run through ours."""
    from transformers.utils import logging as transformers_logging

    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    verbosity = transformers_logging.get_verbosity()
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        transformers_logging.set_verbosity_error()
        try:
            yield
        finally:
            transformers_logging.set_verbosity(verbosity)
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
