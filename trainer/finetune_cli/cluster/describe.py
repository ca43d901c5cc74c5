"""`finetune describe`: everything that the operator says of one job, for a person."""

import json
from typing import TYPE_CHECKING

from finetune_cli.cluster.options import AsJson, ClusterContext, JobName, Namespace, client_of, console

if TYPE_CHECKING:
    from rich.table import Table

    from finetune_client import Job, JobEvent


def describe(name: JobName, namespace: Namespace = None, cluster_context: ClusterContext = None, as_json: AsJson = False) -> None:
    """Tell all about a job: conditions, attempts, checkpoints, publication, what happened when."""
    client = client_of(namespace, cluster_context)
    job = client.get_job(name)
    events = client.get_job_events(name)
    if as_json:
        from dataclasses import asdict

        status = job.status.to_json()
        print(json.dumps({"name": job.name, "namespace": job.namespace, "status": status, "events": [asdict(event) for event in events]}))
        return
    _show(job, events)


def _show(job: "Job", events: "list[JobEvent]") -> None:
    from rich.text import Text

    from finetune_api.status import figures_text

    status, screen = job.status, console()
    screen.print(Text.assemble((job.name, "bold"), f" in {job.namespace}: {job.stage}"))
    if why := job.why():
        screen.print(Text(f"  {why}"))
    facts = {
        "model": f"{job.spec.get('model', {}).get('name', '')}" + (f" at {status.run.model_revision[:12]}" if status.run else ""),
        "progress": _progress(job),
        "checkpoint": f"step {status.checkpoints.latest.step}" if status.checkpoints and status.checkpoints.latest else "",
        "evaluation": figures_text(status.evaluation) if status.evaluation else "",
        "published": f"{status.publication.repository} at {status.publication.revision[:12]}" if status.publication else "",
        "used": f"{job.gpu_hours:.2f} GPU hours, {status.usage.charged_failures} failures charged" if status.usage else "",
    }
    for title, fact in facts.items():
        if fact:
            screen.print(Text(f"  {title:<12}{fact}"))
    conditions = _table("CONDITION", "STATUS", "REASON", "SINCE", "MESSAGE")
    for found in status.conditions:
        conditions.add_row(str(found.type), found.status, found.reason, found.last_transition_time, Text(found.message))
    attempts = _table("ATTEMPT", "BEGAN", "ENDED", "OUTCOME", "STEPS", "MESSAGE")
    for each in status.attempts:
        steps = "" if each.first_step is None else f"{each.first_step} to {each.last_step if each.last_step is not None else '?'}"
        outcome = f"{each.outcome}" + (" (charged)" if each.charged else "") if each.outcome else "runs"
        attempts.add_row(str(each.number), each.start_time or "", each.completion_time or "", outcome, steps, Text(each.message or ""))
    happened = _table("WHEN", "EVENT", "MESSAGE")
    for event in events:
        happened.add_row(event.time, Text(event.reason, style="red" if event.kind == "Warning" else ""), Text(event.message))
    for table in (conditions, attempts, happened):
        if table.row_count:
            screen.print()
            screen.print(table)


def _table(*titles: str) -> "Table":
    """Words stand whole; the message, last, takes the lines that it needs."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, no_wrap=title != titles[-1], overflow="fold")
    return table


def _progress(job: "Job") -> str:
    progress = job.status.progress
    if progress is None:
        return ""
    total = f" of {progress.total_steps}" if progress.total_steps else ""
    loss = "" if progress.loss is None else f", loss {progress.loss:.4f}"
    speed = "" if progress.tokens_per_second is None else f", {progress.tokens_per_second:,.0f} tokens/s"
    left = f", {progress.eta} left" if progress.eta and not job.is_finished else ""
    return f"step {progress.step}{total}{loss}{speed}{left}" + (", nothing heard for some time" if progress.stale else "")
