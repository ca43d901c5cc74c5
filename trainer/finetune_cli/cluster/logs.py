"""`finetune logs`: what a job's pods say, while they are there; afterwards what was kept of it beside the checkpoints."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from finetune_cli.cluster.options import AsJson, ClusterContext, Namespace, client_of, is_run

if TYPE_CHECKING:
    from finetune_client import Job
    from finetune_trainer.storage.protocol import Storage

Stage: TypeAlias = Literal["preparation", "training", "evaluation", "publication"]


def logs(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A FineTuneJob; a run as ./runs/tiny or s3://bucket/prefix.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for the pod to begin, and go on until it ends.")] = False,
    stage: Annotated[
        Stage | None, typer.Option("--stage", help="Which stage's log.", show_default="the newest that says something")
    ] = None,
    attempt: Annotated[
        int | None, typer.Option("--attempt", metavar="N", min=1, help="Which attempt at training.", show_default="the newest")
    ] = None,
    rank: Annotated[int | None, typer.Option("--rank", metavar="N", min=0, help="What that rank printed, as kept in the storage.")] = None,
    tail: Annotated[int | None, typer.Option("--tail", metavar="N", min=0, help="Only the last lines.")] = None,
    namespace: Namespace = None,
    cluster_context: ClusterContext = None,
    as_json: AsJson = False,
) -> None:
    """Print the log of a stage: training's is the driver's, with every step.

    When its pods are gone, and for ranks, it comes from the job's storage, with the keys of the environment (AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY). It is kept there within 15 seconds.
    """
    from finetune_api.errors import InvalidCluster

    if (attempt is not None or rank is not None) and stage not in (None, "training"):
        option = f"--attempt {attempt}" if attempt is not None else f"--rank {rank}"
        raise InvalidCluster(f"{option} is of training, and --stage {stage} has none; leave one of them out")
    chosen: Stage | None = "training" if attempt is not None or rank is not None else stage
    if follow and (rank is not None or is_run(name)):
        raise InvalidCluster("--follow is for the log of a job's pod; what is kept in storage is read as it is now")
    found = (
        _of_run(name, chosen, attempt, rank)
        if is_run(name)
        else _of_job(name, chosen, attempt, rank, follow, tail, namespace, cluster_context)
    )
    if tail is not None and (rank is not None or is_run(name)):
        from collections import deque

        found = iter(deque(found, maxlen=tail))
    for line in found:
        print(json.dumps({"line": line}, ensure_ascii=False) if as_json else line, flush=follow)


def _of_job(
    name: str,
    stage: Stage | None,
    attempt: int | None,
    rank: int | None,
    follow: bool,
    tail: int | None,
    namespace: str | None,
    context: str | None,
) -> Iterator[str]:
    """The pod's, and what is kept where there is no pod."""
    from finetune_client.logs import LogGone

    client = client_of(namespace, context)
    if rank is None:
        try:
            yield from client.get_job_logs(name, stage=stage, attempt=attempt, follow=follow, tail=tail)
            return
        except LogGone as gone:
            told = str(gone)
    else:
        told = f"what rank {rank} of FineTuneJob {name} printed is in its storage"
    job = client.get_job(name)
    cluster = None
    if attempt is not None:
        found = next((each for each in job.status.attempts if each.number == attempt), None)
        cluster = found.ray_job.cluster if found and found.ray_job else None
    yield from _kept(_storage_of(job, told), stage, attempt, rank, cluster=cluster)


def _storage_of(job: "Job", told: str) -> "Storage":
    """The job's storage, with the environment's keys. Raises InvalidCluster, with what can't be had and how it can be."""
    from finetune_api.errors import FineTuneError, InvalidCluster
    from finetune_cli.environment_storage import endpoint_of_environment
    from finetune_trainer.storage.places import open_storage
    from finetune_trainer.storage.probe import check_readable

    settings = job.spec.get("checkpoints") or {}
    url = settings.get("storage") or ""
    if "://" not in url:
        raise InvalidCluster(f"{told}; the job's storage is {url or 'on its pods'}, a volume: finetune logs FOLDER where it is mounted")
    try:
        storage = open_storage(url, endpoint=endpoint_of_environment(url) or settings.get("endpoint"), region=settings.get("region"))
        check_readable(storage)
    except FineTuneError as error:
        raise InvalidCluster(f"{told}; the log is kept in {url}, which can't be read: {error}") from None
    return storage


def _of_run(run: str, stage: Stage | None, attempt: int | None, rank: int | None) -> Iterator[str]:
    from finetune_cli.environment_storage import open_from_environment
    from finetune_cli.export import frozen_run, origin
    from finetune_trainer.checkpoints.job_storage import job_storage
    from finetune_trainer.secrets import Secrets
    from finetune_trainer.storage.probe import check_readable

    if "://" in run or not (Path(run) / "run.json").is_file():
        storage = open_from_environment(run, "NAME")
    else:
        frozen, folder = frozen_run(Path(run))
        storage = job_storage(frozen.job, base=origin(folder, None), default=folder.storage, secrets=Secrets())
    check_readable(storage)
    yield from _kept(storage, stage, attempt, rank)


def _kept(storage: "Storage", stage: Stage | None, attempt: int | None, rank: int | None, *, cluster: str | None = None) -> Iterator[str]:
    """Lines of a log that was kept; without `stage` of the newest one. `cluster`: the RayCluster of the attempt, where that is known."""
    from finetune_api.errors import InvalidCluster
    from finetune_client.logs import lines
    from finetune_trainer.storage.kept_logs import STDERR, kept_logs

    stages: tuple[Stage, ...] = (stage,) if stage else ("publication", "evaluation", "training", "preparation")
    runs = next((found for each in stages if (found := kept_logs(storage, each))), {})
    names = list(runs)
    if cluster is not None:
        names = [name for name in names if name.endswith(f"-{cluster}")]
    elif attempt is not None:
        names = names[attempt - 1 : attempt]
    if not names:
        which = f" of attempt {attempt}" if attempt and runs else ""
        raise InvalidCluster(f"{storage.url} keeps no log{which} of {stage or 'any stage'}" + (f"; there are {len(runs)}" if runs else ""))
    told = runs[names[-1]]
    who = f"rank-{rank}" if rank is not None else next((each for each in ("driver", "main", "rank-0") if each in told), min(told))
    if who not in told:
        known = ", ".join(sorted(each for each in told if not each.endswith(STDERR)))
        raise InvalidCluster(f"--rank {rank}: {storage.url} keeps no log of it; there are {known}")
    yield from lines(storage.get(key) for key in (*told[who], *told.get(who + STDERR, ())))
