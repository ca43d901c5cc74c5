"""Tasks whose answers are run: HumanEval, by its tests, and plots, by whether they draw.

In: a loaded model. Out: measurements, and pictures. A chat model is asked in a message, a base model goes on with the function as it
stands. What runs and what not is the sandbox's business; what a picture shows is a person's.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune_api.errors import InvalidData, InvalidModel, NoSandbox
from finetune_assistant.evaluation.benchmark_files import files_below
from finetune_assistant.evaluation.results import Measurement
from finetune_assistant.inference.dialogue_prompting import DialoguePrompter
from finetune_assistant.inference.generation import Request, answers, seed_of
from finetune_assistant.inference.loading import LoadedModel
from finetune_assistant.inference.sampling import Sampling, longest_answer, window_of
from finetune_assistant.sandbox import humaneval, plots
from finetune_assistant.sandbox.examples import PLOT_PROMPTS
from finetune_assistant.sandbox.humaneval import Problem
from finetune_assistant.sandbox.run import why_not
from finetune_trainer.data.dialogues import Message

Advance = Callable[[int, int], None]
# Ours by these names, though lm-eval has a humaneval, too, which runs what a model writes without a sandbox.
WHAT = {
    "humaneval": "HumanEval: functions, run against their tests in the sandbox",
    "plots": "answers that draw a chart or a map, run in the sandbox",
}
_K = (1, 10)  # of pass@k
_ASK = (
    "Complete this Python function so that it does what its docstring says. Answer with the whole function in one code block."
    "\n\n```python\n{}```"
)
# As StarChat was shown; the likeliest answer alone where one is enough.
_TEMPERATURE, _TOP_P = 0.2, 0.95
_LONGEST_FUNCTION, _LONGEST_PLOT = 512, 768  # tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeTasks:
    """What is asked: problems of HumanEval, none where it isn't, and plots. `samples`: answers a prompt."""

    problems: tuple[Problem, ...]
    problems_there: int
    wants_plots: bool
    samples: int
    limit: int | None
    pictures: Path | None  # where they are written

    @property
    def names(self) -> list[str]:
        """What was asked for, by name."""
        return ["humaneval"] * bool(self.problems) + ["plots"] * self.wants_plots


def code_tasks(names: Sequence[str], task_data: Path | None, samples: int, limit: int | None, pictures: Path | None) -> CodeTasks | None:
    """None when `names` has none of ours. Before a model is loaded: raises NoSandbox, NotInstalled, or InvalidData."""
    if not set(names) & WHAT.keys():
        return None
    if reason := why_not():
        raise NoSandbox(f"--tasks {','.join(sorted(set(names) & WHAT.keys()))} runs what models write: {reason}")
    if "plots" in names:
        plots.need_libraries()
    problems = _problems(task_data) if "humaneval" in names else []
    return CodeTasks(
        problems=tuple(problems[:limit]),
        problems_there=len(problems),
        wants_plots="plots" in names,
        samples=samples,
        limit=limit,
        pictures=pictures,
    )


def _problems(task_data: Path | None) -> list[Problem]:
    names = ("HumanEval.jsonl.gz", "HumanEval.jsonl", "human-eval-v2-20210705.jsonl")
    if task_data is None:
        raise InvalidData(f"--tasks humaneval reads {names[0]}; give its folder as --task-data")
    files = files_below(task_data)
    found = next((path for name in names for path in files if path.name == name), None)
    if found is None:
        raise InvalidData(f"{task_data}: no file named like {', '.join(names)}; put it there, or give its folder as --task-data")
    return humaneval.read(found)


def measured_code(
    loaded: LoadedModel, tasks: CodeTasks, *, as_chat: bool | None, batch_size: int, seed: int, progress: Callable[[str], Advance]
) -> list[Measurement]:
    """Ask, run and count. `as_chat`: functions are asked for in a message, or gone on with; None: by whether the model has a template."""
    is_chat = _has_template(loaded) if as_chat is None else as_chat
    results: list[Measurement] = []
    if tasks.problems:
        results += _humaneval(loaded, tasks, is_chat, batch_size, seed, progress)
    if tasks.wants_plots:
        results += _plots(loaded, tasks, batch_size, seed, progress)
    return results


def _humaneval(
    loaded: LoadedModel, tasks: CodeTasks, is_chat: bool, batch_size: int, seed: int, progress: Callable[[str], Advance]
) -> list[Measurement]:
    asked = loaded if is_chat else replace(loaded, prompter=Continuation(loaded))
    texts = {problem.task_id: _ASK.format(problem.prompt) if is_chat else problem.prompt for problem in tasks.problems}
    written = _answers(asked, texts, tasks.samples, _LONGEST_FUNCTION, batch_size, seed, progress(f"{loaded.name}, humaneval"))
    function = humaneval.answered if is_chat else humaneval.completed
    functions = [(problem, function(problem, answer)) for problem in tasks.problems for answer in written[problem.task_id]]
    say = progress(f"{loaded.name}, its functions run")
    done = iter(range(1, len(functions) + 1))
    attempts = humaneval.check_all(functions, parallel=os.cpu_count() or 1, on_attempt=lambda _: say(next(done), len(functions)))
    passed = {problem.task_id: sum(each.passed for each in attempts if each.task_id == problem.task_id) for problem in tasks.problems}
    return [
        _measurement(
            tasks,
            "humaneval",
            f"pass@{k}",
            {task_id: humaneval.pass_at_k(tasks.samples, count, k) for task_id, count in passed.items()},
            documents=len(tasks.problems),
            there=tasks.problems_there,
            is_chat=is_chat and _has_template(loaded),
        )
        for k in _K
        if k <= tasks.samples
    ]


def _plots(loaded: LoadedModel, tasks: CodeTasks, batch_size: int, seed: int, progress: Callable[[str], Advance]) -> list[Measurement]:
    prompts = PLOT_PROMPTS[: tasks.limit]
    texts = {each.name: each.prompt for each in prompts}
    written = _answers(loaded, texts, tasks.samples, _LONGEST_PLOT, batch_size, seed, progress(f"{loaded.name}, plots"))
    ran, drew = {}, {}
    say = progress(f"{loaded.name}, its plots run")
    for name, its in written.items():
        for sample, answer in enumerate(its, start=1):
            plot = plots.draw(answer)
            key = f"{name} {sample}"
            ran[key], drew[key] = float(plot.ran), float(plot.ran and plot.drew)
            _keep(plot.pictures, tasks.pictures, f"{loaded.name} {key}")
            say(len(ran), len(prompts) * tasks.samples)
    is_chat = _has_template(loaded)
    return [
        _measurement(tasks, "plots", metric, values, documents=len(prompts), there=len(PLOT_PROMPTS), is_chat=is_chat)
        for metric, values in (("ran", ran), ("ran and drew", drew))
    ]


def _has_template(loaded: LoadedModel) -> bool:
    return not isinstance(loaded.prompter, DialoguePrompter)


def _keep(pictures: Sequence[bytes], folder: Path | None, name: str) -> None:
    if folder is None:
        return
    plain = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")
    for number, picture in enumerate(pictures, start=1):
        (folder / f"{plain}-{number}.png").write_bytes(picture)


def _answers(
    loaded: LoadedModel, texts: Mapping[str, str], samples: int, longest: int, batch_size: int, seed: int, advance: Advance
) -> dict[str, list[str]]:
    """`samples` answers to each text, in their order."""
    sampling = Sampling(greedy=True, max_new_tokens=longest) if samples == 1 else _drawn(longest)
    places = [(name, sample) for name in texts for sample in range(samples)]
    ids = {name: loaded.prompter.encode([Message(role="user", content=text)]) for name, text in texts.items()}
    window, room = window_of(loaded.model.config), longest_answer(loaded.model, sampling, longest)
    most = max(map(len, ids.values()))
    if most + room > window:
        raise InvalidModel(
            f"{loaded.name}: a prompt of {most} tokens and an answer of {room} don't fit its window of {window}; leave this task out"
        )
    requests = [Request(ids=ids[name], seed=seed_of(seed, name, 0, sample)) for name, sample in places]
    found: dict[int, str] = {}
    advance(0, len(requests))
    for batch in answers(loaded, requests, sampling=sampling, batch_size=batch_size):
        found.update({each.index: each.text for each in batch})
        advance(len(found), len(requests))
    return {name: [found[index] for index, (its, _) in enumerate(places) if its == name] for name in texts}


def _drawn(longest: int) -> Sampling:
    return Sampling(temperature=_TEMPERATURE, top_p=_TOP_P, max_new_tokens=longest)


def _measurement(
    tasks: CodeTasks, task: str, metric: str, values: Mapping[str, float], *, documents: int, there: int, is_chat: bool
) -> Measurement:
    from statistics import fmean, stdev

    return Measurement(
        task=task,
        metric=metric,
        value=fmean(values.values()),
        standard_error=stdev(values.values()) / len(values) ** 0.5 if len(values) > 1 else None,
        shots=0,
        limit=tasks.limit,
        documents=documents,
        documents_there=there,
        chat_template=is_chat,
        samples=tasks.samples,
        by_document=dict(values),
    )


class Continuation:
    """A prompter for code that goes on: the text as it is, and no frame around it."""

    stop_ids: list[int] = []  # noqa: RUF012  the model's own end counts
    stop_texts = humaneval.STOP_SEQUENCES
    answer_lead = ""

    def __init__(self, loaded: LoadedModel) -> None:
        """Raises InvalidModel where there is no tokenizer.json."""
        from finetune_trainer.templates.tokenizer import read_tokenizer

        self._tokenizer: Any = read_tokenizer(loaded.folder).tokenizer
        self._line: list[int] = self._tokenizer.encode("\n", add_special_tokens=False).ids

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The text of the last message."""
        return list(self._tokenizer.encode(messages[-1].content).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """After a newline: some tokenizers leave out a space that begins a text, and here it is indentation."""
        before = self._tokenizer.decode(self._line)
        return str(self._tokenizer.decode([*self._line, *ids]))[len(before) :]
