"""`finetune suspend`, `resume`, `retry` and `delete`: what people do to a job while it is there."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from finetune_cli.cluster.options import AsJson, ClusterContext, JobName, Namespace, client_of

if TYPE_CHECKING:
    from finetune_client import Job


def suspend(
    name: JobName,
    wait: Annotated[bool, typer.Option("--wait", help="Return when no pod runs any more.")] = False,
    namespace: Namespace = None,
    cluster_context: ClusterContext = None,
    as_json: AsJson = False,
) -> None:
    """Stop a job after a checkpoint and give its GPUs back."""
    client = client_of(namespace, cluster_context)
    job = client.suspend_job(name)
    if wait:
        job = client.wait_for_job_status(name, {"Suspended"}, timeout=None)
    _tell(job, "is suspended" if wait else "commits a checkpoint and gives its GPUs back", as_json=as_json)


def resume(name: JobName, namespace: Namespace = None, cluster_context: ClusterContext = None, as_json: AsJson = False) -> None:
    """Let a suspended job go on from its newest checkpoint."""
    _tell(client_of(namespace, cluster_context).resume_job(name), "goes on from its newest checkpoint", as_json=as_json)


def retry(name: JobName, namespace: Namespace = None, cluster_context: ClusterContext = None, as_json: AsJson = False) -> None:
    """Reopen a failed job at the stage that failed."""
    _tell(client_of(namespace, cluster_context).retry_job(name), "is tried again at the stage that failed", as_json=as_json)


def delete(
    name: JobName,
    wait: Annotated[bool, typer.Option("--wait", help="Return when its pods are gone too.")] = False,
    namespace: Namespace = None,
    cluster_context: ClusterContext = None,
    as_json: AsJson = False,
) -> None:
    """Delete a job and its objects. Checkpoints and what was published stay: the same job applied again goes on from there."""
    client = client_of(namespace, cluster_context)
    job = client.get_job(name)
    client.delete_job(name)
    if wait:
        client.wait_until_deleted(job)
    _tell(job, "is deleted" if wait else "is being deleted", as_json=as_json)


def _tell(job: "Job", what: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"name": job.name, "namespace": job.namespace, "stage": job.stage}))
    else:
        print(f"FineTuneJob {job.name} {what}")
