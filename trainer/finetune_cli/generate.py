"""`finetune generate`: answers to a file of prompts, in batches; a run that was ended goes on where it was."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune_cli.model_options import (
    DtypeName,
    Greedy,
    LoadInName,
    MaxNewTokens,
    ModelName,
    PromptName,
    RepetitionPenalty,
    Revision,
    System,
    Temperature,
    TopK,
    TopP,
    refuse_greedy_with_others,
    say_loading,
)

if TYPE_CHECKING:
    from finetune_assistant.answers.answer_file import Progress

_PROMPTS = "Rows with `prompt` or `messages`: .jsonl, .json, .parquet, .arrow, .csv, or a Hub data set (org/name)."
_OUTPUT = "Where the answers go, one JSON object a line, in the order of the prompts."
_OVERWRITE = "Make the file anew. Without it answers that are in the file are kept, if they were made with the same settings."


def generate(
    model: ModelName,
    prompts: Annotated[str, typer.Argument(metavar="PROMPTS", help=_PROMPTS)],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help=_OUTPUT)],
    samples: Annotated[int, typer.Option("--samples", min=1, metavar="N", help="Answers to each prompt, each with a seed of its own.")] = 1,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, metavar="N", help="Prompts that are answered at once.")] = 8,
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="Split of a Hub data set.")] = "train",
    system: System = None,
    prompt: PromptName = None,
    greedy: Greedy = False,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    repetition_penalty: RepetitionPenalty = None,
    max_new_tokens: MaxNewTokens = None,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Where the seeds of all answers come from.")] = 42,
    dtype: DtypeName = "auto",
    load_in: LoadInName = None,
    revision: Revision = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help=_OVERWRITE)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object about the run.")] = False,
) -> None:
    """Answer every prompt of a file. Fields of a row stay, and `answer`, `model`, `finish_reason`, `prompt_tokens`, `new_tokens` are added.

    Ctrl-C, or a machine that goes down, loses no finished answer: the same command goes on.
    """
    from finetune_assistant.answers.answer_file import answer_file
    from finetune_assistant.answers.samples_file import replaced_fields
    from finetune_assistant.inference.loading import load
    from finetune_assistant.inference.sampling import Sampling
    from finetune_assistant.prompts.prompt_rows import read_prompts

    refuse_greedy_with_others(greedy, temperature, top_k, top_p)
    sampling = Sampling(
        greedy=greedy,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    _refuse_itself(prompts, output)
    rows = read_prompts(prompts, split=split, system=system)
    if names := replaced_fields(rows):
        _remark(f"{prompts}: the rows have fields named {', '.join(names)}, which the answers' take the place of")
    say_loading(model, as_json=as_json)
    loaded = load(model, revision=revision, prompt=prompt, dtype=dtype, load_in=load_in)
    for note in loaded.notes:
        _remark(note)
    began = time.monotonic()
    with _shown(output, began) as show:
        written = answer_file(
            loaded,
            rows,
            output,
            sampling=sampling,
            samples=samples,
            batch_size=batch_size,
            overwrite=overwrite,
            asked_with={"system": system, "loadIn": load_in},
            on_progress=show,
        )
    seconds = time.monotonic() - began
    _tell(
        {
            "output": str(output),
            "answers": written.total,
            "kept": written.before,
            "ended": written.ended,
            "newTokens": written.new_tokens,
            "leftOut": written.left_out,
            "seconds": round(seconds, 3),
        },
        as_json=as_json,
    )


def _refuse_itself(prompts: str, output: Path) -> None:
    if Path(prompts).exists() and output.exists() and output.samefile(prompts):
        raise typer.BadParameter(f"--output {output} is the file of the prompts; give another name")
    if output.is_dir():
        raise typer.BadParameter(f"--output {output} is a folder; give a file's name, such as {output / 'samples.jsonl'}")


def _remark(text: str) -> None:
    print(text, file=sys.stderr)


def _tell(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        import json

        print(json.dumps(found))
        return
    from finetune_trainer.reporting.readable import count, duration

    new = found["answers"] - found["kept"]
    kept = f", {found['kept']:,} of them were there already" if found["kept"] else ""
    print(f"{found['answers']:,} answers are in {found['output']}{kept}")
    if new:
        pace = found["newTokens"] / max(found["seconds"], 1e-9)
        cut = f"; {new - found['ended']:,} were cut at their longest" if new > found["ended"] else ""
        print(f"{new:,} new ones: {count(found['newTokens'])} tokens in {duration(found['seconds'])}, {pace:,.0f} tokens/s{cut}")
    if found["leftOut"]:
        print(f"{found['leftOut']:,} older messages did not fit the window")


@contextmanager
def _shown(output: Path, began: float) -> Iterator[Callable[["Progress"], None]]:
    """Progress on stderr: a bar on a terminal, a line now and then elsewhere. Ctrl-C says what is kept."""
    from finetune_cli.terminal import PacedLines

    last: list[Progress] = []
    lines = PacedLines("answers", sys.stderr)
    bar = _Bar(began) if sys.stderr.isatty() else None

    def show(progress: "Progress") -> None:
        last[:] = [progress]
        if bar is not None:
            bar.show(progress)
        else:
            lines.say(progress.done, progress.total)

    try:
        yield show
    except KeyboardInterrupt:
        if last:
            _remark(f"\nstopped; {last[0].done:,} of {last[0].total:,} answers are in {output}, and the same command goes on there")
        raise
    finally:
        if bar is not None:
            bar.close()


class _Bar:
    """Answers, tokens/s and the time that is left, on a terminal."""

    def __init__(self, began: float) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (TextColumn("answers"), BarColumn(bar_width=30), TextColumn("{task.fields[position]}"))
        self._progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True))
        self._task = self._progress.add_task("answers", total=None, position="")
        self._began = began

    def show(self, progress: "Progress") -> None:
        pace = progress.new_tokens / max(time.monotonic() - self._began, 1e-9)
        self._progress.start()
        position = f"{progress.done:,}/{progress.total:,}  {pace:,.0f} tokens/s"
        self._progress.update(self._task, completed=progress.done, total=progress.total, position=position)

    def close(self) -> None:
        self._progress.stop()
