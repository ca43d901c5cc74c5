"""Tasks by name: those of ours read the user's files, all others are lm-eval's own.

In: names, and the folder of --task-data. Out: what lm-eval's TaskManager needs to load them. A task of ours is lm-eval's own definition
of the same name, included, with other files beneath it and the number of shots that leaderboards use: prompts and metrics stay lm-eval's,
so numbers compare.
"""

import difflib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from finetune_api.errors import InvalidData, NotInstalled, UnknownTask
from finetune_assistant.evaluation import benchmark_files
from finetune_assistant.evaluation.benchmark_files import Benchmark


@dataclass(frozen=True, slots=True, kw_only=True)
class Standard:
    """How leaderboards ask a benchmark. `definition`: lm-eval's own, below its folder of tasks."""

    shots: int
    metric: str
    what: str
    definition: str


# The Open LLM Leaderboard of 2023, which the blog's table is of.
STANDARDS = {
    "arc_challenge": Standard(shots=25, metric="acc_norm", what="ARC-Challenge: science questions", definition="arc/arc_challenge.yaml"),
    "hellaswag": Standard(shots=10, metric="acc_norm", what="HellaSwag: how a scene goes on", definition="hellaswag/hellaswag.yaml"),
    "mmlu": Standard(
        shots=5, metric="acc", what="MMLU: questions of 57 subjects, of which those are asked that are there", definition="mmlu"
    ),
    "truthfulqa_mc2": Standard(
        shots=0, metric="acc", what="TruthfulQA: what many people believe (mc2)", definition="truthfulqa/truthfulqa_mc2.yaml"
    ),
}
_READERS: dict[str, Callable[[Path], Benchmark]] = {
    "arc_challenge": benchmark_files.arc_challenge,
    "hellaswag": benchmark_files.hellaswag,
    "truthfulqa_mc2": benchmark_files.truthfulqa,
}
_SUBJECT = "mmlu_"
_ASKED = ("test", "validation")  # splits; examples are drawn from the others
_NEAR = 4  # names that an error suggests


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenTasks:
    """Names, and where lm-eval finds their definitions: `folder` of ours, and lm-eval's own where `needs_own`."""

    names: tuple[str, ...]
    folder: Path | None
    needs_own: bool
    notes: tuple[str, ...]

    def shots(self, task: str) -> int | None:
        """Examples before each question, where the definition doesn't say it. `task`: a name, or that of a group's member."""
        known = "mmlu" if task.startswith(_SUBJECT) and self._is_asked(task) else task
        return STANDARDS[known].shots if known in STANDARDS else None

    @property
    def evaluation_files(self) -> list[Path]:
        """Documents that are asked, a file a task; only of tasks of ours: lm-eval's own are on the Hub."""
        found = () if self.folder is None else self.folder.glob("*/*.jsonl")
        return sorted(path for path in found if path.stem in _ASKED and self._is_asked(path.parent.name))

    def _is_asked(self, task: str) -> bool:
        """A folder that was kept may hold definitions of earlier evaluations."""
        return task in self.names or (task.startswith(_SUBJECT) and "mmlu" in self.names)

    def manager(self) -> Any:
        """lm-eval's TaskManager. Its index of all tasks of its own takes 10 to 20 s (0.4.13), so it is made where it is needed only."""
        from lm_eval.tasks import TaskManager

        return TaskManager(include_path=None if self.folder is None else str(self.folder), include_defaults=self.needs_own)


def chosen_tasks(names: Sequence[str], task_data: Path | None, folder: Path) -> ChosenTasks:
    """The tasks of these names; definitions and documents of ours are written below `folder`.

    Raises UnknownTask, or InvalidData where `task_data` lacks a file or holds a damaged one.
    """
    names = tuple(dict.fromkeys(names))
    refuse_unknown(names)
    if task_data is None:
        return ChosenTasks(names=names, folder=None, needs_own=True, notes=())
    if not task_data.is_dir():
        raise InvalidData(f"--task-data {task_data}: there is no such folder; correct the path")
    ours = [name for name in names if name in STANDARDS or name in _subject_names()]
    notes = [note for name in ours for note in _write(name, task_data, folder)]
    return ChosenTasks(names=names, folder=folder if ours else None, needs_own=len(ours) < len(names), notes=tuple(notes))


def need_harness() -> None:
    """Raises NotInstalled where lm-eval isn't installed."""
    from importlib.util import find_spec

    if find_spec("lm_eval") is None:
        raise NotInstalled("benchmarks and perplexity need lm-eval; install it with `pip install 'finetune-operator[evaluation]'`")


def refuse_unknown(names: Iterable[str]) -> None:
    """Raises UnknownTask with near names; before anything slow."""
    unknown = [name for name in names if name not in STANDARDS]
    if not unknown:
        return
    known = own_names()
    for name in unknown:
        if name not in known:
            near = difflib.get_close_matches(name, [*STANDARDS, *known], n=_NEAR, cutoff=0.5)
            guess = f"; near it: {', '.join(dict.fromkeys(near))}" if near else ""
            raise UnknownTask(f"--tasks {name}: there is no task of this name{guess}; `finetune evaluate --tasks list` lists them")


_NAMED = re.compile(r"""^["']?(?:task|group)["']?:[ \t]*["']?([^\s"'\[{#]+)""", re.MULTILINE)
_TAGGED = re.compile(r"""^["']?tag["']?:(?:[ \t]*["']?([^\s"'\[{#-][^\s"'#]*)|((?:\s*\n[ \t]*-[ \t]*\S+)+))""", re.MULTILINE)
_ITEM = re.compile(r"""-[ \t]*["']?([^\s"']+)""")


@cache
def own_names() -> frozenset[str]:
    """Names of lm-eval's own tasks, groups and tags, read from its definitions as text: TaskManager would parse all 14,000 of them."""
    names: set[str] = set()
    for path in _own_definitions().rglob("*"):
        if path.suffix not in (".yaml", ".yml", "") or not path.is_file():  # templates that are included have no suffix
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        names.update(_NAMED.findall(text))
        for one, several in _TAGGED.findall(text):
            names.update([one] if one else _ITEM.findall(several))
    return frozenset(names)


def _own_definitions() -> Path:
    """lm-eval's folder of tasks, found without importing it. Raises NotInstalled where it isn't installed."""
    from importlib.util import find_spec

    need_harness()
    found = find_spec("lm_eval")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "tasks"


def _subject_names() -> dict[str, str]:
    """MMLU's subjects by the names of their tasks: the files of lm-eval's own definitions name both."""
    files = (_own_definitions() / "mmlu/default").glob(f"{_SUBJECT}*.yaml")
    return {path.stem: path.stem.removeprefix(_SUBJECT) for path in sorted(files)}


def _write(name: str, task_data: Path, folder: Path) -> list[str]:
    """Definition and documents of one task of ours; what a reader of the number should know."""
    if name == "mmlu":
        known = _subject_names()
        there = benchmark_files.mmlu_subjects(task_data, known.values())
        for subject in there:
            _write_subject(subject, task_data, folder)
        _write_mmlu_group(there, folder)
        return [] if len(there) == len(known) else [f"mmlu: {len(there)} of {len(known)} subjects are there: {', '.join(there)}"]
    if name in STANDARDS:
        benchmark = _READERS[name](task_data)
        changes: dict[str, Any] = {"process_docs": None} if benchmark.is_rendered else {}
        standard = STANDARDS[name]
        alone = standard.shots > 0 and not benchmark.shots
        evaluation = "test" if name == "arc_challenge" else "validation"
        splits = {"train": benchmark.shots, evaluation: benchmark.evaluation}
        changes |= {"training_split": "train" if benchmark.shots else None, "num_fewshot": standard.shots}
        _write_task(name, standard.definition, splits, changes, folder)
        return [f"{name}: no training documents are there, so shots are drawn from its other questions"] if alone else []
    _write_subject(_subject_names()[name], task_data, folder)
    return []


def _write_subject(subject: str, task_data: Path, folder: Path) -> None:
    benchmark = benchmark_files.mmlu(task_data, subject)
    changes = {"num_fewshot": min(STANDARDS["mmlu"].shots, len(benchmark.shots))}
    splits = {"test": benchmark.evaluation, "dev": benchmark.shots}
    _write_task(f"{_SUBJECT}{subject}", f"mmlu/default/{_SUBJECT}{subject}.yaml", splits, changes, folder)


def _write_task(name: str, definition: str, splits: dict[str, list[Any]], changes: dict[str, Any], folder: Path) -> None:
    """`name`.yaml in `folder`, which lm-eval's own command reads as well, and the documents beside it."""
    files = {}
    (folder / name).mkdir(parents=True, exist_ok=True)
    for split, documents in splits.items():
        if documents:
            path = (folder / name / f"{split}.jsonl").resolve()
            path.write_text("".join(json.dumps(document) + "\n" for document in documents), encoding="utf-8")
            files[split] = str(path)
    config = {
        "include": str(_own_definitions() / definition),
        "dataset_path": "json",
        "dataset_name": None,
        # Without a folder of its own, every evaluation would leave a copy in the cache of `datasets`.
        "dataset_kwargs": {"data_files": files, "cache_dir": str((folder / "cache").resolve())},
        **changes,
    }
    _write_yaml(folder / f"{name}.yaml", config)


def _write_mmlu_group(subjects: list[str], folder: Path) -> None:
    """lm-eval's own group wants all 57 subjects; the mean over questions is the same."""
    metric = {"metric": "acc", "weight_by_size": True}
    group = {"group": "mmlu", "task": [f"{_SUBJECT}{subject}" for subject in subjects], "aggregate_metric_list": [metric]}
    _write_yaml(folder / "mmlu.yaml", group)


def _write_yaml(path: Path, config: dict[str, Any]) -> None:
    import yaml

    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
