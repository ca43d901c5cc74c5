"""`finetune wait`: until a job is where it was waited for; the exit code says whether it got there."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from finetune_cli.cluster.options import AsJson, ClusterContext, JobName, Namespace, client_of

if TYPE_CHECKING:
    from finetune_client import Job


def wait(
    name: JobName,
    wanted: Annotated[
        list[str] | None,
        typer.Option("--for", metavar="CONDITION", help="Condition or stage; repeatable: any of them.", show_default="Succeeded"),
    ] = None,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="TIME", help="Longest wait, as 90s, 30m or 2h.", show_default="none")
    ] = None,
    namespace: Namespace = None,
    cluster_context: ClusterContext = None,
    as_json: AsJson = False,
) -> None:
    """Wait for a job. Exit code 0: it got there; 1: it failed instead, or the time is over."""
    from finetune_api.conditions import STAGES, ConditionType
    from finetune_api.errors import InvalidCluster

    known = {word.lower(): word for word in (*map(str, ConditionType), *(word for _, word in STAGES))}
    words = {known.get(word.lower()) for word in wanted or ["Succeeded"]}
    if None in words:
        raise InvalidCluster(f"--for {', '.join(wanted or ())}: there are {', '.join(sorted(known.values()))}")
    told, seconds = list[str](), _seconds(timeout)

    def tell(job: "Job") -> None:
        said = f"{job.name}: {job.stage}" + (f": {job.why()}" if job.why() else "")
        if said != (told[-1] if told else None):
            told.append(said)
            print(said, file=sys.stderr, flush=True)

    client = client_of(namespace, cluster_context)
    job = client.wait_for_job_status(name, {word for word in words if word}, timeout=seconds, callbacks=[tell])
    if as_json:
        print(json.dumps({"name": job.name, "namespace": job.namespace, "stage": job.stage}))
    else:
        print(f"FineTuneJob {job.name} is {job.stage}")


def _seconds(text: str | None) -> float | None:
    """The time in seconds; None where none was given. Raises InvalidCluster.

    >>> _seconds("90s"), _seconds("2h"), _seconds("15"), _seconds(None)
    (90.0, 7200.0, 15.0, None)
    """
    from finetune_api.errors import InvalidCluster

    if text is None:
        return None
    number, unit = (text[:-1], text[-1]) if text[-1:] in ("s", "m", "h") else (text, "s")
    try:
        return float(number) * {"s": 1, "m": 60, "h": 3600}[unit]
    except ValueError:
        raise InvalidCluster(f"--timeout {text}: is no time; write it as 90s, 30m or 2h") from None
