"""What is known without asking: the reflectors' stores of jobs and of what belongs to them.

In: objects as watches give them. Out: the same, by job. Nothing here talks to the API server.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from finetune_operator import keys, kinds
from finetune_operator.reconcile import Key
from finetune_operator.runtime.api import Json, Resource
from finetune_operator.runtime.store import Store
from finetune_operator.transform import transform, transform_job


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """What the reflectors know. All but `jobs` are indexed by `of_job`."""

    jobs: Store
    reports: Store
    batch_jobs: Store
    rayjobs: Store
    pods: Store

    def of(self, resource: Resource) -> Store:
        """The store of a watched resource."""
        known = {
            kinds.FINETUNEJOBS: self.jobs,
            kinds.FINETUNEREPORTS: self.reports,
            kinds.JOBS: self.batch_jobs,
            kinds.RAYJOBS: self.rayjobs,
            kinds.PODS: self.pods,
        }
        return known[resource]


def job_key(item: Json) -> Key | None:
    """The job that an object says it belongs to; a job is its own."""
    metadata = item["metadata"]
    name = metadata["name"] if item.get("kind") == kinds.FINETUNEJOBS.kind else (metadata.get("labels") or {}).get(keys.JOB_LABEL)
    return (metadata["namespace"], name) if name else None


def of_job(item: Json) -> Iterable[str]:
    """Index of the stores: the job."""
    key = job_key(item)
    return ["/".join(key)] if key else []


def stores() -> Stores:
    """Empty stores."""
    reports, batch_jobs, rayjobs, pods = (Store(of_job, transform) for _ in kinds.CHILDREN)
    return Stores(jobs=Store(trim=transform_job), reports=reports, batch_jobs=batch_jobs, rayjobs=rayjobs, pods=pods)
