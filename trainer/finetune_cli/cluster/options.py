"""What every command about a cluster takes, and the client that follows from it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from finetune_client import FineTuneClient


def _names(context: typer.Context, incomplete: str) -> list[str]:
    """Names of jobs, for the shell's completion. What goes wrong completes nothing."""
    with contextlib.suppress(Exception):
        options = context.params
        return [
            job.name
            for job in client_of(options.get("namespace"), options.get("cluster_context")).list_jobs()
            if job.name.startswith(incomplete)
        ]
    return []


Namespace: TypeAlias = Annotated[
    str | None, typer.Option("--namespace", "-n", metavar="NAME", help="Namespace of the job.", show_default="the context's")
]
ClusterContext: TypeAlias = Annotated[
    str | None, typer.Option("--context", metavar="NAME", help="Context of the kubeconfig.", show_default="the current one")
]
JobName: TypeAlias = Annotated[str, typer.Argument(metavar="NAME", help="Name of a FineTuneJob.", autocompletion=_names)]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def client_of(namespace: str | None, context: str | None) -> "FineTuneClient":
    """The client for these options."""
    from finetune_client import FineTuneClient

    return FineTuneClient(namespace=namespace, context=context)


def console() -> "Console":
    """Where tables go: as wide as the terminal; in a pipe a line is a row, whatever its length."""
    from rich.console import Console

    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=10_000)


def is_run(name: str) -> bool:
    """Whether a word means a run (`./runs/tiny`, `s3://bucket/prefix`) and no job's name.

    >>> is_run("tiny"), is_run("./tiny"), is_run("runs/tiny"), is_run("s3://bucket/tiny")
    (False, True, True, True)
    """
    return "/" in name or name in (".", "..")


@contextlib.contextmanager
def metrics_file(run: str) -> Iterator[Path]:
    """The metrics.jsonl of a run: in its folder, or fetched from its storage with the environment's keys. Raises InvalidStorage."""
    import tempfile

    if "://" not in run:
        yield Path(run) / "metrics.jsonl"
        return
    from finetune_cli.environment_storage import open_from_environment
    from finetune_trainer.storage.errors import MissingObject
    from finetune_trainer.storage.probe import check_readable

    storage = open_from_environment(run, "NAME")
    check_readable(storage)
    with tempfile.TemporaryDirectory(prefix="finetune-get-") as folder:
        path = Path(folder) / "metrics.jsonl"
        with contextlib.suppress(MissingObject):
            storage.get_file("metrics.jsonl", path)
        yield path
