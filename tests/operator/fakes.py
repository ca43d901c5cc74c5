"""An API server in memory, and a cluster on it that a test plays by hand.

FakeApi has the methods of runtime.api.Api that `cluster.py` uses, with the semantics that it relies on: uids, resourceVersions and
conflicts, names that are taken, generations, the status subresource, deletion by owner references. Stores are filled at once, or
when the test says `deliver` (then they are behind). A call may be made to fail, or the process to die before or after it.

`Played` is a job's life on any such API: the tests of the real API server use it too.
"""

import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from finetune_api.pod_result import PodResult
from finetune_operator import keys, kinds
from finetune_operator.caches import Stores, stores
from finetune_operator.cluster import Cluster
from finetune_operator.observation import KubeRay
from finetune_operator.reconcile import Decision, Key, reconcile_once
from finetune_operator.runtime.api import AlreadyExists, ApiError, Conflict, NotFound, Resource
from finetune_operator.settings import Settings

from . import builders

Json = dict[str, Any]
START = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)


class HandClock:
    """A clock that only the test turns."""

    def __init__(self, now: datetime = START) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return (self._now - START).total_seconds()

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)


class Died(BaseException):
    """The operator's process was killed here."""


class FakeApi:
    """The API server. `calls` are its writes, `reads` its reads, as `POST jobs starchat-prepare-01234567`, and dry runs `DRY-RUN`."""

    def __init__(self, clock: HandClock) -> None:
        self.objects: dict[tuple[str, str, str], Json] = {}
        self.calls: list[str] = []
        self.reads: list[str] = []
        self.known: Stores = stores()
        self.behind = False
        self.before: Callable[[int, str], None] = lambda number, call: None
        self.after: Callable[[int, str], None] = lambda number, call: None
        self._clock = clock
        self._versions = itertools.count(100)
        self._uids = itertools.count(1)

    # ---- what cluster.py calls

    def get(self, resource: Resource, namespace: str | None, name: str) -> Json:
        self.reads.append(f"GET {resource.plural} {name}")
        return _copy(self._find(resource, namespace, name))

    def list_pages(self, resource: Resource, namespace: str | None, *, label_selector: str = "") -> tuple[list[Json], str]:
        self.reads.append(f"LIST {resource.plural} {label_selector}")
        name, _, value = label_selector.partition("=")
        found = [item for item in self.of(resource) if item["metadata"].get("labels", {}).get(name) == value]
        return _copy(found), ""

    def create(self, resource: Resource, namespace: str | None, manifest: Json, *, strict: bool = True, dry_run: bool = False) -> Json:
        def create() -> Json:
            place = (resource.plural, namespace or "", manifest["metadata"]["name"])
            if place in self.objects:
                raise AlreadyExists(f"{resource.plural} {place[2]} exists", status=409, reason="AlreadyExists")
            item = _copy(manifest)
            if dry_run:
                return item
            item["metadata"] |= {
                "uid": f"00000000-0000-4000-8000-{next(self._uids):012}",
                "creationTimestamp": self._timestamp(),
                "generation": 1,
            }
            return self._keep(place, item)

        return self._write(f"{'DRY-RUN' if dry_run else 'POST'} {resource.plural} {manifest['metadata']['name']}", create)

    def merge_patch(self, resource: Resource, namespace: str | None, name: str, patch: Json, *, subresource: str | None = None) -> Json:
        def change() -> Json:
            item = self._find(resource, namespace, name)
            wanted = (patch.get("metadata") or {}).get("resourceVersion")
            if wanted not in (None, item["metadata"]["resourceVersion"]):
                raise Conflict("the object has been modified", status=409, reason="Conflict")
            parts = ("status",) if subresource == "status" else tuple(key for key in patch if key not in ("metadata", "status"))
            new = _copy(item)
            for part in parts:
                new[part] = _merged(item.get(part), patch.get(part))
            if "spec" in parts and new["spec"] != item.get("spec"):
                new["metadata"]["generation"] = item["metadata"].get("generation", 1) + 1
            return item if new == item else self._keep((resource.plural, namespace or "", name), new)

        return self._write(f"PATCH {resource.plural}{'/' + subresource if subresource else ''} {name}", change)

    def delete(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation: str = "Background",
    ) -> None:
        def delete() -> Json:
            item = self._find(resource, namespace, name)
            if uid not in (None, item["metadata"]["uid"]) or resource_version not in (None, item["metadata"]["resourceVersion"]):
                raise Conflict("uid or resourceVersion differs", status=409, reason="Conflict")
            self.remove(resource, namespace or "", name)
            return {}

        self._write(f"DELETE {resource.plural} {name}", delete)

    # ---- what tests do

    def put(self, resource: Resource, item: Json) -> Json:
        """Make or replace an object as somebody else."""
        metadata = item["metadata"]
        metadata.setdefault("uid", f"00000000-0000-4000-9000-{next(self._uids):012}")
        metadata.setdefault("creationTimestamp", self._timestamp())
        return self._keep((resource.plural, metadata.get("namespace", ""), metadata["name"]), _copy(item))

    def change(self, resource: Resource, namespace: str, name: str, **parts: Any) -> Json:
        """Merge into an object as somebody else; a changed spec is another generation."""
        item = _copy(self._find(resource, namespace, name))
        for part, value in parts.items():
            item[part] = _merged(item.get(part), value)
        if "spec" in parts:
            item["metadata"]["generation"] = item["metadata"].get("generation", 1) + 1
        return self._keep((resource.plural, namespace, name), item)

    def remove(self, resource: Resource, namespace: str, name: str) -> None:
        """Delete an object and all that it owns, as the garbage collector would."""
        place = (resource.plural, namespace, name)
        item = self.objects.pop(place)
        if not self.behind:
            self._forget(place)
        for (plural, where, other), found in list(self.objects.items()):
            owners = [reference["uid"] for reference in found["metadata"].get("ownerReferences", [])]
            if item["metadata"]["uid"] in owners and (plural, where, other) in self.objects:
                self.remove(_resource(plural), where, other)

    def deliver(self) -> None:
        """Let the watches catch up."""
        for resource in (kinds.FINETUNEJOBS, *kinds.CHILDREN):
            store = self.known.of(resource)
            there = {(namespace, name) for plural, namespace, name in self.objects if plural == resource.plural}
            for gone in store.names() - there:
                store.remove(gone)
            for namespace, name in there:
                store.put(_copy(self.objects[resource.plural, namespace, name]))

    def of(self, resource: Resource) -> list[Json]:
        """All objects of a kind, by name."""
        return [item for (plural, _, _), item in sorted(self.objects.items()) if plural == resource.plural]

    # ---- inside

    def _find(self, resource: Resource, namespace: str | None, name: str) -> Json:
        try:
            return self.objects[resource.plural, namespace or "", name]
        except KeyError:
            raise NotFound(f"{resource.plural} {name} not found", status=404, reason="NotFound") from None

    def _write(self, call: str, write: Callable[[], Json]) -> Json:
        number = len(self.calls)
        self.before(number, call)
        self.calls.append(call)
        answer = _copy(write())
        self.after(number, call)
        return answer

    def _keep(self, place: tuple[str, str, str], item: Json) -> Json:
        item["metadata"]["resourceVersion"] = str(next(self._versions))
        self.objects[place] = item
        if not self.behind:
            self._show(place, item)
        return item

    def _show(self, place: tuple[str, str, str], item: Json) -> None:
        if any(place[0] == resource.plural for resource in (kinds.FINETUNEJOBS, *kinds.CHILDREN)):
            self.known.of(_resource(place[0])).put(_copy(item))

    def _forget(self, place: tuple[str, str, str]) -> None:
        if any(place[0] == resource.plural for resource in (kinds.FINETUNEJOBS, *kinds.CHILDREN)):
            self.known.of(_resource(place[0])).remove(place[1:])

    def _timestamp(self) -> str:
        return self._clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")


def _copy(item: Any) -> Any:
    """As it would come over the wire, which is also faster than copy.deepcopy."""
    return json.loads(json.dumps(item))


def _resource(plural: str) -> Resource:
    known = (*kinds.MADE.values(), kinds.PODS, kinds.EVENTS)
    return next(resource for resource in known if resource.plural == plural)


def _merged(old: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return _copy(patch)
    result = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


class World:
    """An operator on a FakeApi, one thread, one step at a time; `restart` is a new process with caches that are up to date."""

    def __init__(self, **settings: Any) -> None:
        self.clock = HandClock()
        self.api = FakeApi(self.clock)
        self.settings: Settings = builders.settings(**settings)
        self.kuberay = KubeRay.PRESENT
        self.key: Key = (builders.NAMESPACE, builders.NAME)
        self.restart()

    def restart(self) -> None:
        self.api.known = stores()
        self.api.deliver()
        self.cluster = Cluster(
            self.api,  # type: ignore[arg-type]
            self.api.known,
            self.clock,
            instance="test",
            kuberay=lambda namespace: self.kuberay,
            defaults=self.settings.job_defaults,
        )

    def submit(self, **spec: Any) -> None:
        """Apply the job."""
        raw = builders.raw_job(**spec)
        self.api.put(kinds.FINETUNEJOBS, raw)

    def look(self) -> Decision | None:
        """Reconcile once."""
        decision = reconcile_once(self.cluster, self.key, self.settings)
        if ("finetunejobs", *self.key) in self.api.objects and self.status:
            check_conditions(self.job)
        return decision

    def settle(self, limit: int = 30) -> Decision | None:
        """Reconcile until nothing is written any more."""
        for _ in range(limit):
            before = len(self.api.calls)
            try:
                decision = self.look()
            except Conflict:
                continue
            if len(self.api.calls) == before:
                return decision
        raise AssertionError(f"no fixed point after {limit} looks: {self.api.calls[-8:]}")

    @property
    def job(self) -> Json:
        return self.api.objects["finetunejobs", *self.key]

    @property
    def status(self) -> Json:
        status: Json = self.job.get("status") or {}
        return status

    def condition(self, kind: str) -> tuple[str, str]:
        """Status and reason."""
        found = next((c for c in self.status.get("conditions", []) if c["type"] == kind), None)
        return (found["status"], found["reason"]) if found else ("absent", "")

    def message(self, kind: str) -> str:
        return next((str(c.get("message", "")) for c in self.status.get("conditions", []) if c["type"] == kind), "")

    def change(self, **spec: Any) -> None:
        """Edit the job's spec."""
        self.api.change(kinds.FINETUNEJOBS, *self.key, spec=spec)

    def names(self, resource: Resource) -> list[str]:
        return [item["metadata"]["name"] for item in self.api.of(resource)]

    @property
    def events(self) -> list[tuple[str, str]]:
        """Reasons and notes, in the order in which they were made."""
        return [(event["reason"], event["note"]) for event in sorted(self.api.of(kinds.EVENTS), key=_version)]


def check_conditions(job: Json) -> None:
    """What holds of any status that was ever written: what kstatus reads, and that a job has one end."""
    status, generation = job["status"], job["metadata"]["generation"]
    true = {condition["type"] for condition in status["conditions"] if condition["status"] == "True"}
    words = (status.get("stage"), sorted(true))
    assert status["observedGeneration"] == generation, words
    assert not {"Reconciling", "Stalled"} <= true, words
    assert not {"Succeeded", "Failed"} <= true, words
    resting = bool(true & {"Succeeded", "Failed", "Suspended", "Stalled"})
    assert ("Reconciling" in true) is not resting, words
    assert "Failed" not in true or "Stalled" in true, words
    assert ("completionTime" in status) is bool(true & {"Succeeded", "Failed"}), words
    if "Succeeded" in true:
        assert {"Planned", "Prepared", "Trained", "Published"} <= true, words
    running = [attempt["number"] for attempt in status.get("attempts", []) if "outcome" not in attempt]
    assert running in ([], [status.get("attempt")]), words


def _version(item: Json) -> int:
    return int(item["metadata"]["resourceVersion"])


class Server(Protocol):
    """What a script needs to play pods and KubeRay: FakeApi has it, and an admin's connection to a real API server."""

    def put(self, resource: Resource, item: Json) -> Json: ...
    def change(self, resource: Resource, namespace: str, name: str, **parts: Any) -> Json: ...
    def remove(self, resource: Resource, namespace: str, name: str) -> None: ...
    def of(self, resource: Resource) -> list[Json]: ...


class Kubelet:
    """Plays the pods of Jobs and RayClusters, and KubeRay's part, in one namespace."""

    def __init__(
        self, server: Server, *, now: Callable[[], datetime], namespace: str = builders.NAMESPACE, job: str = builders.NAME
    ) -> None:
        self._server = server
        self._now = now
        self._namespace = namespace
        self._job = job

    def timestamp(self) -> str:
        return self._now().strftime("%Y-%m-%dT%H:%M:%SZ")

    def named(self, resource: Resource, part: str) -> Json:
        """The one object of a kind whose name has that part."""
        found = [item for item in self._server.of(resource) if part in item["metadata"]["name"]]
        assert len(found) == 1, [item["metadata"]["name"] for item in self._server.of(resource)]
        return found[0]

    # ---- Jobs of one pod

    def pod_of(self, job: Json, *, number: int = 1, **state: Any) -> Json:
        """A pod of a Job, in that state (see builders.raw_pod)."""
        name = job["metadata"]["name"]
        pod = builders.raw_pod(
            f"{name}-{number}",
            stage=job["metadata"]["labels"][keys.STAGE_LABEL],
            job_name=self._job,
            namespace=self._namespace,
            labels={"job-name": name},
            controller=job,
            **state,
        )
        pod["metadata"]["creationTimestamp"] = self.timestamp()
        return self._server.put(kinds.PODS, pod)

    def complete(self, part: str, result: PodResult | str, **more: Any) -> None:
        """The Job whose name has that part ends well, and its pod says that."""
        job = self.named(kinds.JOBS, part)
        self.pod_of(job, phase="Succeeded", exit_code=0, result=result, **more)
        self._server.change(kinds.JOBS, self._namespace, job["metadata"]["name"], status=self._job_end("Complete"))

    def fail(self, part: str, result: PodResult | str | None, *, exit_code: int | None = None) -> None:
        """The Job whose name has that part fails for good, and its pod says that."""
        job = self.named(kinds.JOBS, part)
        code = exit_code if exit_code is not None else (result.exit_code if isinstance(result, PodResult) else 1)
        self.pod_of(job, phase="Failed", exit_code=code, result=result)
        self._server.change(kinds.JOBS, self._namespace, job["metadata"]["name"], status=self._job_end("Failed"))

    def _job_end(self, outcome: str) -> Json:
        status = builders.kubernetes_job_status(outcome)
        status["conditions"][0] |= {"lastTransitionTime": self.timestamp(), "lastProbeTime": self.timestamp()}
        return status

    # ---- RayJobs

    def rayjob(self, name: str, deployment: str, *, job: str = "", cluster: str | None = None, **more: Any) -> None:
        """KubeRay's status of a RayJob."""
        cluster = cluster if cluster is not None else f"{name}-abcde"
        status = builders.rayjob_status(deployment, job=job, cluster=cluster)
        status["startTime"] = self.timestamp()
        if deployment in ("Complete", "Failed"):
            status["endTime"] = self.timestamp()
        self._server.change(kinds.RAYJOBS, self._namespace, name, status=status | more)

    def ray_pods(self, cluster: str, *, workers: int = 2, phase: str = "Running", **state: Any) -> None:
        """The pods of a RayCluster: the head and the workers."""
        for number, container in enumerate([keys.HEAD_CONTAINER, *[keys.WORKER_CONTAINER] * workers]):
            self.ray_pod(cluster, number, container, phase=phase, **state)

    def ray_pod(self, cluster: str, number: int, container: str, *, name: str | None = None, **state: Any) -> None:
        pod = builders.raw_pod(
            name or f"{cluster}-{number}",
            stage=keys.TRAINING,
            job_name=self._job,
            namespace=self._namespace,
            container=container,
            labels={"ray.io/cluster": cluster, keys.NODE_TYPE_LABEL: "worker" if number else "head"},
            controller=builders.ray_cluster(cluster),
            **state,
        )
        pod["metadata"]["creationTimestamp"] = self.timestamp()
        self._server.put(kinds.PODS, pod)

    def submitter(self, rayjob: str, *, number: int = 1, **state: Any) -> None:
        """A pod of the Job that KubeRay makes under the RayJob's name; it has no label of the RayCluster."""
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": rayjob, "uid": f"uid-of-{rayjob}"}}
        pod = builders.raw_pod(
            f"{rayjob}-{number}xyz",
            stage=keys.TRAINING,
            job_name=self._job,
            namespace=self._namespace,
            container=keys.SUBMITTER_CONTAINER,
            labels={"batch.kubernetes.io/job-name": rayjob},
            controller=job,
            **state,
        )
        pod["metadata"]["creationTimestamp"] = self.timestamp()
        self._server.put(kinds.PODS, pod)

    def remove_ray_pods(self, cluster: str) -> None:
        """The RayCluster is gone."""
        for pod in self._server.of(kinds.PODS):
            if any(owner["name"] == cluster for owner in pod["metadata"].get("ownerReferences", [])):
                self._server.remove(kinds.PODS, self._namespace, pod["metadata"]["name"])

    def report(self, cluster: str, **status: Any) -> None:
        """The driver reports."""
        told = {"cluster": cluster, "reportedAt": self.timestamp()} | status
        self._server.change(kinds.FINETUNEREPORTS, self._namespace, self._job, status=told)

    def train(self, name: str, *, step: int = 10, workers: int = 2, **report: Any) -> None:
        """A RayJob runs to its good end."""
        cluster = f"{name}-abcde"
        self.rayjob(name, "Running", job="RUNNING")
        self.ray_pods(cluster, workers=workers)
        self.report(cluster, outcome="Finished", step=step, totalSteps=step, **report)
        self.finish(name)

    def finish(self, name: str, job: str = "SUCCEEDED", **more: Any) -> None:
        """The Ray job ends, and KubeRay takes its cluster away."""
        self.rayjob(name, "Complete" if job != "FAILED" else "Failed", job=job, **more)
        self.remove_ray_pods(f"{name}-abcde")


def failing(error: ApiError, *, call: str) -> Callable[[int, str], None]:
    """For FakeApi.before: calls that begin so fail."""

    def check(number: int, found: str) -> None:
        if found.startswith(call):
            raise error

    return check
