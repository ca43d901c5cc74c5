"""`finetune get`: where jobs are, once or live; also where a run on this machine is, or one in object storage."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from finetune_cli.cluster.options import AsJson, ClusterContext, Namespace, client_of, console, is_run, metrics_file

if TYPE_CHECKING:
    from rich.table import Table

    from finetune_client import Job

_WATCH_SECONDS = 2.0
_BAR = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is shown of a job or a run. `message`: what a person should know."""

    name: str
    namespace: str
    stage: str
    step: int | None = None
    total_steps: int | None = None
    loss: float | None = None
    tokens_per_second: float | None = None
    eta: str | None = None
    checkpoint_step: int | None = None
    attempt: int = 0
    gpu_hours: float = 0.0
    created: str = ""
    message: str = ""


def get(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A FineTuneJob; a run as ./runs/tiny or s3://bucket/prefix. Absent is all jobs.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay, and show what changes, until all are finished.")] = False,
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Jobs of every namespace.")] = False,
    namespace: Namespace = None,
    cluster_context: ClusterContext = None,
    as_json: AsJson = False,
) -> None:
    """Show where jobs are: stage, step, loss, speed, newest checkpoint, GPU hours."""
    look = _looker(name, namespace, cluster_context, all_namespaces=all_namespaces)
    if not watch:
        _print(look(), as_json=as_json, all_namespaces=all_namespaces)
        return
    _watch(look, as_json=as_json, all_namespaces=all_namespaces)


def _looker(name: str | None, namespace: str | None, context: str | None, *, all_namespaces: bool) -> Callable[[], list[Row]]:
    from finetune_api.errors import InvalidCluster

    if name is not None and is_run(name):
        return lambda: [row_of_run(name)]
    if name is not None and all_namespaces:
        raise InvalidCluster(f"--all-namespaces lists all jobs, and {name} is one; leave one of them out")
    client = client_of(namespace, context)
    if name is not None:
        return lambda: [row_of(client.get_job(name))]
    return lambda: [row_of(job) for job in client.list_jobs(all_namespaces=all_namespaces)]


def row_of(job: "Job") -> Row:
    """A job's row."""
    progress, checkpoints = job.status.progress, job.status.checkpoints
    return Row(
        name=job.name,
        namespace=job.namespace,
        stage=job.stage,
        step=progress.step if progress else None,
        total_steps=(progress.total_steps if progress else None) or (job.status.plan.total_steps if job.status.plan else None),
        loss=progress.loss if progress else None,
        tokens_per_second=progress.tokens_per_second if progress else None,
        eta=progress.eta if progress and not job.is_finished else None,
        checkpoint_step=checkpoints.latest.step if checkpoints and checkpoints.latest else None,
        attempt=job.status.attempt,
        gpu_hours=job.gpu_hours,
        created=job.created,
        message=job.why(),
    )


def row_of_run(run: str) -> Row:
    """A run's row, by what it measured. Raises RunConflict where there is no run."""
    from finetune_api.errors import RunConflict
    from finetune_trainer.reporting.events import StepDone, StoppedEarly
    from finetune_trainer.reporting.metrics import read_metrics

    with metrics_file(run) as path:
        if not path.exists():
            raise RunConflict(f"{run}: there is no metrics.jsonl, so no run trains or trained there; a job's name has no slash in it")
        events = read_metrics(path)
    steps = [event for event in events if isinstance(event, StepDone)]
    early = next((event for event in events if isinstance(event, StoppedEarly)), None)
    if not steps:
        return Row(name=run, namespace="", stage="Starting")
    last = steps[-1]
    return Row(
        name=run,
        namespace="",
        stage="Trained" if early is not None or last.step >= last.total_steps else "Training",
        step=last.step if early is None else early.step,
        total_steps=last.total_steps,
        loss=last.loss,
        tokens_per_second=last.tokens_per_second,
        message="" if early is None else early.message,
    )


def _print(rows: Sequence[Row], *, as_json: bool, all_namespaces: bool) -> None:
    if as_json:
        print(json.dumps([asdict(row) for row in rows], ensure_ascii=False))
    elif not rows:
        print("no FineTuneJobs; `finetune apply JOB.yaml` makes one")
    else:
        console().print(table_of(rows, all_namespaces=all_namespaces, now=datetime.now(UTC)))


def table_of(rows: Sequence[Row], *, all_namespaces: bool, now: datetime) -> "Table":
    """The rows as people read them."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in (
        *(["NAMESPACE"] if all_namespaces else []),
        "NAME",
        "STAGE",
        "STEP",
        "LOSS",
        "TOKENS/S",
        "LEFT",
        "CHECKPOINT",
        "GPU-H",
        "AGE",
    ):
        table.add_column(title, no_wrap=True)
    for row in rows:
        cells: list[str | Text] = [
            row.name,
            Text(row.stage, style=_STYLES.get(row.stage, "cyan")),
            _steps(row),
            "" if row.loss is None else f"{row.loss:.3f}",
            "" if row.tokens_per_second is None else f"{row.tokens_per_second:,.0f}",
            row.eta or "",
            "" if row.checkpoint_step is None else str(row.checkpoint_step),
            f"{row.gpu_hours:.2f}" if row.gpu_hours else "",
            _age(row.created, now),
        ]
        table.add_row(*([row.namespace] if all_namespaces else []), *cells)
    return table


_STYLES = {"Succeeded": "green", "Failed": "bold red", "Stalled": "red", "Suspended": "yellow"}


def _steps(row: Row) -> str:
    if row.step is None:
        return ""
    if not row.total_steps:
        return str(row.step)
    done = round(_BAR * min(1.0, row.step / row.total_steps))
    return f"{'━' * done}{'╌' * (_BAR - done)} {row.step}/{row.total_steps}"


def _age(created: str, now: datetime) -> str:
    from finetune_api.times import seconds_between

    seconds = seconds_between(created, now) if created else None
    if seconds is None:
        return ""
    from finetune_api.status import eta_text

    return eta_text(max(0.0, seconds))


def _watch(look: Callable[[], list[Row]], *, as_json: bool, all_namespaces: bool) -> None:
    """Show again and again, until everything is finished: a live table on a terminal, elsewhere a line for each change."""
    from rich.live import Live

    screen = console()
    if as_json or not screen.is_terminal:
        _tell_changes(look, as_json=as_json)
        return
    with Live(console=screen, refresh_per_second=4) as live:
        while True:
            rows = look()
            live.update(_live(rows, all_namespaces=all_namespaces))
            if _is_over(rows):
                return
            time.sleep(_WATCH_SECONDS)


def _live(rows: Sequence[Row], *, all_namespaces: bool) -> "Table":
    """The table, and below it what a person should know of a single job."""
    from rich.table import Table
    from rich.text import Text

    whole = Table.grid()
    whole.add_row(table_of(rows, all_namespaces=all_namespaces, now=datetime.now(UTC)))
    if len(rows) == 1 and rows[0].message:
        whole.add_row(Text(rows[0].message, style="dim"))
    return whole


def _tell_changes(look: Callable[[], list[Row]], *, as_json: bool) -> None:
    told: dict[tuple[str, str], tuple[object, ...]] = {}
    while True:
        rows = look()
        for row in rows:
            key, said = (row.namespace, row.name), (row.stage, row.step, row.checkpoint_step, row.attempt, row.message)
            if told.get(key) != said:
                told[key] = said
                print(json.dumps(asdict(row), ensure_ascii=False) if as_json else _line(row), flush=True)
        if _is_over(rows):
            return
        time.sleep(_WATCH_SECONDS)


def _line(row: Row) -> str:
    step = "" if row.step is None else f" step {row.step}" + (f"/{row.total_steps}" if row.total_steps else "")
    loss = "" if row.loss is None else f" loss {row.loss:.3f}"
    return f"{row.name}: {row.stage}{step}{loss}" + (f": {row.message}" if row.message else "")


def _is_over(rows: Sequence[Row]) -> bool:
    return all(row.stage in ("Succeeded", "Failed", "Trained") for row in rows)
