"""`finetune logs`: what a job's pods say, while they are there; afterwards what was kept of it beside the checkpoints."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from finetune_cli.cluster.kept import Chosen, kept_lines, kept_list
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
    source: Annotated[
        str | None, typer.Option("--source", metavar="LOG", help="Another log of the attempt, by its name in --list, as ray-raylet.")
    ] = None,
    lists: Annotated[
        bool, typer.Option("--list", help="List what the storage keeps: attempts and how they ended; with --attempt each of its logs.")
    ] = False,
    tail: Annotated[int | None, typer.Option("--tail", metavar="N", min=0, help="Only the last lines.")] = None,
    namespace: Namespace = None,
    cluster_context: ClusterContext = None,
    as_json: AsJson = False,
) -> None:
    """Print the log of a stage: training's is the driver's, with every step. Of a run, if nothing is chosen, the list of what there is.

    When its pods are gone, and for ranks, it comes from the job's storage, with the keys of the environment (AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY). It is kept there within 15 seconds.
    """
    chosen = _chosen(stage, attempt, rank, source)
    nothing_is_chosen = chosen == Chosen() and tail is None and not follow
    _refuse_what_is_not_kept(name, chosen, follow=follow, lists=lists, tail=tail)
    if lists or (is_run(name) and nothing_is_chosen):
        storage, ends = (_storage_of_run(name), {}) if is_run(name) else _kept_of_job(name, namespace, cluster_context)
        kept_list(storage, chosen, ends, as_json=as_json)
        return
    found = kept_lines(_storage_of_run(name), chosen) if is_run(name) else _of_job(name, chosen, follow, tail, namespace, cluster_context)
    if tail is not None and (chosen.who is not None or is_run(name)):
        from collections import deque

        found = iter(deque(found, maxlen=tail))
    for line in found:
        print(json.dumps({"line": line}, ensure_ascii=False) if as_json else line, flush=follow)


def _chosen(stage: Stage | None, attempt: int | None, rank: int | None, source: str | None) -> Chosen:
    """Raises InvalidCluster for options that don't go together."""
    from finetune_api.errors import InvalidCluster

    if rank is not None and source is not None:
        raise InvalidCluster(f"--rank {rank} and --source {source} are two logs; leave one of them out")
    if (attempt is not None or rank is not None) and stage not in (None, "training"):
        option = f"--attempt {attempt}" if attempt is not None else f"--rank {rank}"
        raise InvalidCluster(f"{option} is of training, and --stage {stage} has none; leave one of them out")
    is_training = attempt is not None or rank is not None or source is not None
    return Chosen(stage=stage or ("training" if is_training else None), attempt=attempt, who=source if rank is None else f"rank-{rank}")


def _refuse_what_is_not_kept(name: str, chosen: Chosen, *, follow: bool, lists: bool, tail: int | None) -> None:
    from finetune_api.errors import InvalidCluster

    if follow and (lists or chosen.who is not None or is_run(name)):
        raise InvalidCluster("--follow is for the log of a job's pod; what is kept in storage is read as it is now")
    if lists and (chosen.who is not None or tail is not None):
        raise InvalidCluster("--list lists logs and prints none; leave --rank, --source and --tail out, or --list")


def _of_job(name: str, chosen: Chosen, follow: bool, tail: int | None, namespace: str | None, context: str | None) -> Iterator[str]:
    """The pod's, and what is kept where there is no pod."""
    from finetune_client.logs import LogGone

    client = client_of(namespace, context)
    told = f"what {chosen.who} of FineTuneJob {name} printed is in its storage"
    if chosen.who is None:
        try:
            yield from client.get_job_logs(name, stage=chosen.stage, attempt=chosen.attempt, follow=follow, tail=tail)
            return
        except LogGone as gone:
            told = str(gone)
    yield from kept_lines(_storage_of(client.get_job(name), told), chosen)


def _kept_of_job(name: str, namespace: str | None, context: str | None) -> tuple["Storage", dict[int, str]]:
    """The job's storage, and how its attempts ended as the operator saw it: a head that is killed tells nobody."""
    job = client_of(namespace, context).get_job(name)
    ends = {each.number: ", ".join(filter(None, (each.outcome, each.reason))) for each in job.status.attempts if each.outcome}
    return _storage_of(job, f"the list of what FineTuneJob {name} said is in its storage"), ends


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


def _storage_of_run(run: str) -> "Storage":
    """The storage of a run: what an address names, or what its folder does."""
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
    return storage
