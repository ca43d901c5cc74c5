"""`finetune usage`: GPU hours by namespace and job, as the operator counted them."""

import json
from itertools import groupby
from typing import Annotated

import typer

from finetune_cli.cluster.options import AsJson, ClusterContext, Namespace, client_of, console


def usage(
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Jobs of every namespace.")] = False,
    namespace: Namespace = None,
    cluster_context: ClusterContext = None,
    as_json: AsJson = False,
) -> None:
    """Show GPU hours by namespace and job; those of deleted jobs are gone with them."""
    jobs = client_of(namespace, cluster_context).list_jobs(all_namespaces=all_namespaces)
    rows = [
        {
            "namespace": job.namespace,
            "name": job.name,
            "gpuHours": job.gpu_hours,
            "goodput": job.status.usage.goodput if job.status.usage else None,
            "attempts": job.status.attempt,
            "budgetGpuHours": job.spec.get("budget", {}).get("gpuHours"),
        }
        for job in jobs
    ]
    totals = {name: sum(row["gpuHours"] for row in of) for name, of in groupby(rows, key=lambda row: row["namespace"])}
    if as_json:
        print(json.dumps({"jobs": rows, "namespaces": totals, "gpuHours": sum(totals.values())}))
        return
    from rich.table import Table

    table = Table("NAMESPACE", "NAME", "GPU-H", "OF", "GOODPUT", "ATTEMPTS", box=None, pad_edge=False, header_style="bold")
    for name, of in groupby(rows, key=lambda row: row["namespace"]):
        for row in of:
            budget = "" if row["budgetGpuHours"] is None else f"{row['budgetGpuHours']:g}"
            goodput = "" if row["goodput"] is None else f"{row['goodput']:.0%}"
            table.add_row(name, row["name"], f"{row['gpuHours']:.2f}", budget, goodput, str(row["attempts"]))
        table.add_row(name, "(all)", f"{totals[name]:.2f}", "", "", "", style="bold")
    console().print(table if rows else "no FineTuneJobs")
