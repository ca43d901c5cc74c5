"""What is known without asking: the reflectors' stores of jobs and of what belongs to them, and values that were read before.

In: objects as watches give them. Out: the same, by job. Nothing here talks to the API server.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from finetune_operator import keys, kinds
from finetune_operator.reconcile import Key
from finetune_operator.runtime.api import Json, Resource
from finetune_operator.runtime.store import Store
from finetune_operator.trimming import trimmed

Value = TypeVar("Value")


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
    reports, batch_jobs, rayjobs, pods = (Store(of_job, trimmed) for _ in kinds.CHILDREN)
    return Stores(jobs=Store(), reports=reports, batch_jobs=batch_jobs, rayjobs=rayjobs, pods=pods)


class Newest(Generic[Value]):
    """The values that were used last, by key; thread-safe."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._values: OrderedDict[Any, Value] = OrderedDict()

    def get(self, key: object) -> Value | None:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: object, value: Value) -> Value:
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            if len(self._values) > self._most:
                self._values.popitem(last=False)
        return value
