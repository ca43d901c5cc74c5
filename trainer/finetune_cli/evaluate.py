"""`finetune evaluate`: benchmarks and perplexity of models, and whether the difference between them is more than chance."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

_LIST = "list"
Say = Callable[[int, int], None]


def evaluate(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL", help="Exported folders, run folders, or models on the Hub (org/name); the first is the base."),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option("--tasks", metavar="NAMES", help="Names with commas: ours or lm-eval's own; `list` lists them and exits.")
    ] = None,
    task_data: Annotated[
        Path | None, typer.Option("--task-data", metavar="FOLDER", help="Files of benchmarks; absent: lm-eval fetches them from the Hub.")
    ] = None,
    perplexity: Annotated[
        list[str] | None, typer.Option("--perplexity", metavar="SOURCE", help="Held-out dialogues to take the loss of; repeatable.")
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", min=1, metavar="N", help="Answers to each prompt of humaneval and plots; pass@10 needs 10.")
    ] = 10,
    pictures: Annotated[Path | None, typer.Option("--pictures", metavar="FOLDER", help="Keep what the answers of plots draw.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Ask the first N documents of each task.")] = None,
    num_fewshot: Annotated[
        int | None,
        typer.Option(
            "--num-fewshot", "--num_fewshot", min=0, metavar="N", help="Examples before each question; absent: as leaderboards ask."
        ),
    ] = None,
    chat_template: Annotated[
        bool | None,
        typer.Option("--chat-template/--no-chat-template", help="Ask in the words of the chat template; absent: each model that has one."),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            metavar="NAME|FILE",
            help="Ask base models for humaneval and plots by example dialogues: general, coding, or a file.",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", "--batch_size", min=1, metavar="N", help="Prompts at a time.")] = 8,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="cpu, cuda, cuda:1; absent: a GPU if there is one.")
    ] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], typer.Option("--dtype", help="Precision of weights; auto: as they are stored.")
    ] = "auto",
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, metavar="N", help="For shots, answers and intervals; absent: lm-eval's own.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the results as JSON.")] = None,
    task_folder: Annotated[
        Path | None,
        typer.Option("--task-folder", metavar="FOLDER", help="Keep the task definitions: `lm_eval run --include_path FOLDER` reads them."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as one JSON object.")] = False,
) -> None:
    """Measure models on benchmarks (ARC-Challenge, HellaSwag, MMLU, TruthfulQA, any of lm-eval's) and on held-out dialogues.

    Beside each number stand its standard error, the shots and how many documents were asked. Of several models the first is the base:
    the others are compared with it on the same documents, with a 95 % interval of the paired bootstrap.
    """
    names = [name.strip() for name in (tasks or "").split(",") if name.strip()]
    if names == [_LIST]:
        _print_names()
        return
    _check(models, names, perplexity, output, pictures)
    _check_prompt(prompt, names, chat_template)
    from finetune_assistant.evaluation.harness import HarnessSettings
    from finetune_assistant.evaluation.pipeline import Wanted, evaluation
    from finetune_assistant.evaluation.results import to_json
    from finetune_cli.evaluation_tables import print_tables

    settings = HarnessSettings(
        num_fewshot=num_fewshot,
        limit=limit,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        seed=seed,
        chat_template=chat_template,
    )
    with _folder(task_folder) as folder, _told() as told:
        wanted = Wanted(
            models=tuple(models or ()),
            tasks=tuple(names),
            task_data=task_data,
            perplexity=tuple(perplexity or ()),
            task_folder=folder,
            samples=samples,
            pictures=pictures,
            prompt=prompt,
        )
        found = evaluation(wanted, settings, told.progress, told.note)
    if output is not None:
        _write(output, to_json(found))
    if as_json:
        print(to_json(found), end="")
    else:
        print_tables(found)
        if output is not None:
            print(f"results are in {output}")


def _check(models: list[str] | None, names: list[str], perplexity: list[str] | None, output: Path | None, pictures: Path | None) -> None:
    if not models:
        raise typer.BadParameter("no MODEL; name an exported folder, a run folder, or a model on the Hub")
    if len(set(models)) < len(models):
        raise typer.BadParameter("a MODEL is named twice; name each once, the base first")
    if not names and not perplexity:
        raise typer.BadParameter("nothing to measure; give --tasks (`--tasks list` lists them) or --perplexity")
    if output is not None and not output.parent.is_dir():
        raise typer.BadParameter(f"--output {output}: there is no folder {output.parent}; make it")
    if pictures is not None and not pictures.is_dir():
        raise typer.BadParameter(f"--pictures {pictures}: there is no such folder; make it")


def _check_prompt(prompt: str | None, names: list[str], chat_template: bool | None) -> None:
    if prompt is None:
        return
    if not {"humaneval", "plots"} & set(names):
        raise typer.BadParameter(f"--prompt {prompt} is for answers, which humaneval and plots ask for; name one of them in --tasks")
    if chat_template is False:
        raise typer.BadParameter(f"--no-chat-template asks in plain text, and --prompt {prompt} by dialogues; give one")


def _write(output: Path, text: str) -> None:
    from finetune_trainer.files.atomic import write_atomically

    try:
        write_atomically(output, text)
    except OSError as error:
        raise typer.BadParameter(f"--output {output}: {error.strerror or error}") from error


def _print_names() -> None:
    """Ours first, with what they are; then lm-eval's own, a line each, for grep."""
    from finetune_assistant.evaluation.code_tasks import WHAT
    from finetune_assistant.evaluation.tasks import STANDARDS, own_names

    for name, standard in STANDARDS.items():
        print(f"{name:<16} {standard.what}; {standard.shots} shots, {standard.metric}; reads files with --task-data")
    for name, what in WHAT.items():
        print(f"{name:<16} {what}")
    for name in sorted(own_names() - STANDARDS.keys() - WHAT.keys()):
        print(name)


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    """Where definitions and documents of tasks are written: the user's folder, or one that vanishes."""
    if kept is not None:
        try:
            kept.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise typer.BadParameter(f"--task-folder {kept}: {error.strerror or error}") from error
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="finetune-tasks-") as folder:
        yield Path(folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """What is told while it lasts, on stderr: how far each thing is that takes long, and notes."""

    progress: Callable[[str], Say]
    note: Callable[[str], None]


@contextmanager
def _told() -> Iterator[_Told]:
    """Bars on a terminal and calm lines elsewhere; on the stream of this moment: lm-eval is given another, for bars of its own."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from finetune_cli.terminal import PacedLines

    stream = sys.stderr
    console = Console(file=stream, highlight=False)

    def note(text: str) -> None:
        console.print(f"note: {text}", markup=False, soft_wrap=True)

    if not console.is_terminal:
        yield _Told(progress=lambda what: PacedLines(what, stream).say, note=note)
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False) as bars:

        def bar(what: str) -> Say:
            task = bars.add_task(what, total=None)
            return lambda done, total: bars.update(task, completed=done, total=total)

        yield _Told(progress=bar, note=note)
