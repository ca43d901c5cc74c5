"""`finetune apply`: send jobs to a cluster, after they were checked as the operator would check them."""

import json
from pathlib import Path
from typing import Annotated

import typer

from finetune_cli.cluster.options import AsJson, ClusterContext, Namespace, client_of


def apply(
    jobs: Annotated[list[Path], typer.Argument(metavar="JOB.yaml", help="FineTuneJob files.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change a field of spec; repeatable.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Ask the API server what it would do; it keeps nothing.")] = False,
    force: Annotated[bool, typer.Option("--force-conflicts", help="Also change fields that someone else has set.")] = False,
    namespace: Namespace = None,
    cluster_context: ClusterContext = None,
    as_json: AsJson = False,
) -> None:
    """Create jobs on a cluster, or change them. All are checked first; none is sent when one is wrong."""
    from finetune_api.errors import InvalidSpec, Problem
    from finetune_api.jobfile import job_document
    from finetune_cli.validate import problems_of

    wrong = {path: problems_of(path, overrides or [], cluster=True) for path in jobs}
    if any(wrong.values()):
        prefix = {path: f"{path}: " if len(jobs) > 1 else "" for path in jobs}
        raise InvalidSpec([Problem(prefix[path] + p.field, p.message, p.remedy) for path, problems in wrong.items() for p in problems])
    made = []
    for path in jobs:
        document = job_document(path, overrides or [])
        client = client_of(namespace or document["metadata"].get("namespace"), cluster_context)
        job = client.apply_job(document, force=force, dry_run=dry_run)
        made.append({"name": job.name, "namespace": job.namespace, "uid": job.uid, "dryRun": dry_run})
        if not as_json:
            print(f"FineTuneJob {job.name} applied in {job.namespace}" + (" (dry run: nothing is kept)" if dry_run else ""))
    if as_json:
        print(json.dumps(made))
    elif not dry_run:
        print(f"watch it with: finetune get {made[-1]['name']} -n {made[-1]['namespace']} --watch")
