"""The real API server as the operator's tests in memory see theirs: the same script plays kubelet and KubeRay on both.

The Job controller is the real one: pods of Jobs are made by it, and only their status is played.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from tests.operator import builders
from tests.operator.fakes import Kubelet

from finetune_api.pod_result import PodResult
from finetune_operator import kinds
from finetune_operator.runtime.api import Api, Conflict, NotFound, Resource

Json = dict[str, Any]

RAYCLUSTERS = Resource("ray.io", "v1", "rayclusters", "RayCluster")


def eventually(what: str, found: Callable[[], Any], *, seconds: float = 90.0, say: Callable[[], object] = lambda: "") -> Any:
    """What `found` gives, as soon as that is true."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if result := found():
                return result
        except (NotFound, KeyError, IndexError):
            pass
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}\n{say()}"
        time.sleep(0.05)


class Admin:
    """The API server to an administrator, in one namespace."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.api = api
        self.namespace = namespace

    def put(self, resource: Resource, item: Json) -> Json:
        item = {**item, "metadata": {k: v for k, v in item["metadata"].items() if k not in ("uid", "resourceVersion", "creationTimestamp")}}
        status = item.pop("status", None)
        made = self.api.create(resource, self.namespace, item, strict=False)
        return self.change(resource, self.namespace, made["metadata"]["name"], status=status) if status else made

    def change(self, resource: Resource, namespace: str, name: str, **parts: Any) -> Json:
        status = parts.pop("status", None)
        made: Json = {}
        if parts:
            made = self.api.merge_patch(resource, namespace, name, parts)
        if status is not None:
            made = self.api.merge_patch(resource, namespace, name, {"status": status}, subresource="status")
        return made

    def remove(self, resource: Resource, namespace: str, name: str) -> None:
        self.api.delete(resource, namespace, name)

    def of(self, resource: Resource) -> list[Json]:
        return self.api.list_pages(resource, self.namespace)[0]


class RealKubelet(Kubelet):
    """Plays on a real API server, whose Job controller makes the pods of Jobs."""

    def __init__(self, admin: Admin, job: str = builders.NAME) -> None:
        super().__init__(admin, now=lambda: datetime.now(UTC), namespace=admin.namespace, job=job)
        self._admin = admin

    def named(self, resource: Resource, part: str) -> Json:
        """The newest object whose name has that part, once it is there."""

        def found() -> Json | None:
            items = [item for item in self._admin.of(resource) if item["metadata"]["name"].startswith(f"{self._job}{part}")]
            return max(items, key=lambda item: int(item["metadata"]["resourceVersion"]), default=None)

        result: Json = eventually(f"{resource.kind} *{part}*", found)
        return result

    def complete(self, part: str, result: PodResult | str) -> None:
        self._end(part, phase="Succeeded", exit_code=0, result=result)

    def fail(self, part: str, result: PodResult | str | None, *, exit_code: int | None = None) -> None:
        code = exit_code if exit_code is not None else (result.exit_code if isinstance(result, PodResult) else 1)
        self._end(part, phase="Failed", exit_code=code, result=result)

    def evict(self, part: str, message: str) -> None:
        """The node evicts the Job's newest pod for what it uses."""
        told = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet", "message": message}
        self._end(part, phase="Failed", exit_code=137, reason="Evicted", message=message, conditions=(told,))

    def _end(self, part: str, **state: Any) -> None:
        """The newest pod of the Job ends in that state (see builders.raw_pod)."""
        job = self.named(kinds.JOBS, part)
        name = job["metadata"]["name"]

        def pod() -> Json | None:
            found = [p for p in self._admin.of(kinds.PODS) if p["metadata"].get("labels", {}).get("job-name") == name]
            return next((p for p in found if p["status"]["phase"] == "Pending"), None)

        found = eventually(f"a pod of {name}", pod)
        status = builders.raw_pod(**state)["status"]
        container = status["containerStatuses"][0] | {"image": "trainer:1", "imageID": "", "ready": False, "restartCount": 0}
        self._admin.change(kinds.PODS, self._admin.namespace, found["metadata"]["name"], status=status | {"containerStatuses": [container]})

    def ray_pod(self, cluster: str, number: int, container: str, **state: Any) -> None:
        """As KubeRay would make it, on no node."""
        from finetune_operator import keys

        pod = builders.raw_pod(
            f"{cluster}-{number}",
            stage=keys.TRAINING,
            job_name=self._job,
            namespace=self._admin.namespace,
            container=container,
            node=None,
            labels={"ray.io/cluster": cluster, keys.NODE_TYPE_LABEL: "worker" if number else "head"},
            controller=self._ray_cluster(cluster),
            **state,
        )
        pod["spec"] = {
            "containers": [{"name": container, "image": "trainer:1"}],
            "schedulerName": "nobody",
            "terminationGracePeriodSeconds": 0,
        }
        for found in pod["status"]["containerStatuses"]:
            found |= {"image": "trainer:1", "imageID": "", "ready": True, "restartCount": 0}
        try:
            self._admin.put(kinds.PODS, pod)
        except Conflict:  # it is there
            self._admin.change(kinds.PODS, self._admin.namespace, pod["metadata"]["name"], status=pod["status"])

    def remove_ray_pods(self, cluster: str) -> None:
        """The RayCluster goes, and takes its pods with it; here they are gone when this returns."""
        with suppress(NotFound):
            self._admin.remove(RAYCLUSTERS, self._admin.namespace, cluster)
        for pod in self._admin.of(kinds.PODS):
            if any(owner["name"] == cluster for owner in pod["metadata"].get("ownerReferences", [])):
                with suppress(NotFound):
                    self._admin.remove(kinds.PODS, self._admin.namespace, pod["metadata"]["name"])

    def _ray_cluster(self, name: str) -> Json:
        """Really there, for pods of an owner that isn't are garbage; and its RayJob's, with which it goes."""
        with suppress(NotFound):
            return self._admin.api.get(RAYCLUSTERS, self._admin.namespace, name)
        metadata: Json = {"name": name, "namespace": self._admin.namespace}
        with suppress(NotFound):
            rayjob = self._admin.api.get(kinds.RAYJOBS, self._admin.namespace, name.rpartition("-")[0])
            owner = {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": rayjob["metadata"]["name"], "uid": rayjob["metadata"]["uid"]}
            metadata["ownerReferences"] = [owner | {"controller": True}]
        head = {"rayStartParams": {}, "template": {"spec": {"containers": [{"name": "ray-head", "image": "trainer:1"}]}}}
        made = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": metadata, "spec": {"headGroupSpec": head}}
        return self._admin.put(RAYCLUSTERS, made)
