"""A platform that chooses users, as OpenShift's `restricted-v2` does: webhooks of our own, and a look at who the processes really are.

A namespace has a range. Pods that leave user, group and fsGroup out get its first number, in each container; who names another is refused.
OpenShift leaves the group at 0, which may do in an image what its user may; a group of the range has no such help.
"""

import base64
import contextlib
import json
import re
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.testcluster import cgroups
from tests.testcluster.any_cluster import kubectl_program
from tests.testcluster.certificates import Authority
from tests.testcluster.cluster import Cluster
from tests.testcluster.network import HOST_ADDRESS

Json = dict[str, Any]

NAME = "assigned-ids.cluster.test"
_OF_CONTAINERS = ("runAsUser", "runAsGroup")
_LOOK_SECONDS = 0.2


@contextlib.contextmanager
def assigned_ids(cluster: Cluster, folder: Path, ranges: Mapping[str, range]) -> Iterator[None]:
    """In these namespaces pods have ids of their ranges, while the block runs."""
    authority = Authority.create(folder / "keys", NAME)
    pair = authority.issue("webhook", NAME, hosts=[HOST_ADDRESS])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    with ThreadingHTTPServer((HOST_ADDRESS, 0), _handler(ranges)) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        bundle = base64.b64encode(authority.certificate.read_bytes()).decode()
        try:
            cluster.apply(*_configurations(f"https://{HOST_ADDRESS}:{server.server_port}", bundle, sorted(ranges)))
            yield
        finally:
            cluster.kubectl("delete", "mutatingwebhookconfiguration,validatingwebhookconfiguration", NAME, "--ignore-not-found")
            server.shutdown()


def _configurations(url: str, bundle: str, namespaces: list[str]) -> Iterator[Json]:
    """What the API server asks: first what is to be filled in, then whether it is right."""
    for kind, path in (("Mutating", "fill"), ("Validating", "check")):
        webhook = {
            "name": NAME,
            "clientConfig": {"url": f"{url}/{path}", "caBundle": bundle},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}],
            "namespaceSelector": {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "In", "values": namespaces}]},
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Fail",
        }
        api = "admissionregistration.k8s.io/v1"
        yield {"apiVersion": api, "kind": f"{kind}WebhookConfiguration", "metadata": {"name": NAME}, "webhooks": [webhook]}


def _handler(ranges: Mapping[str, range]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked = review["request"]
            allowed, pod = ranges[asked["namespace"]], asked["object"]
            answer: Json = {"uid": asked["uid"], "allowed": True}
            if self.path.startswith("/fill"):
                patch = [{"op": "add", "path": "/spec", "value": filled(pod["spec"], allowed.start)}]
                answer |= {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(patch).encode()).decode()}
            elif wrong := wrong_ids(pod["spec"], allowed):
                answer |= {"allowed": False, "status": {"code": 403, "message": "; ".join(wrong)}}
            body = json.dumps({"apiVersion": review["apiVersion"], "kind": review["kind"], "response": answer}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            """Nothing."""

    return Handler


def filled(spec: Json, number: int) -> Json:
    """A pod's spec with that number where it says no user, group or fsGroup.

    >>> filled({"containers": [{"name": "a"}]}, 7)["containers"]
    [{'name': 'a', 'securityContext': {'runAsUser': 7, 'runAsGroup': 7}}]
    """
    of_pod = spec.get("securityContext", {})
    absent = {name: number for name in _OF_CONTAINERS if name not in of_pod}
    containers = {
        kind: [one | {"securityContext": absent | one.get("securityContext", {})} for one in spec[kind]]
        for kind in ("initContainers", "containers")
        if kind in spec
    }
    return spec | containers | {"securityContext": {"fsGroup": number} | of_pod}


def wrong_ids(spec: Json, allowed: range) -> list[str]:
    """What is no number of the range.

    >>> wrong_ids({"securityContext": {"fsGroup": 7}, "containers": [{"securityContext": {"runAsUser": 7, "runAsGroup": 0}}]}, range(7, 9))
    ['spec.containers[0].securityContext.runAsGroup: 0 is not in 7 to 8']
    """
    of_pod = spec.get("securityContext", {})
    found = {"spec.securityContext.fsGroup": of_pod.get("fsGroup")}
    for kind in ("initContainers", "containers"):
        for index, one in enumerate(spec.get(kind, [])):
            for name in _OF_CONTAINERS:
                value = one.get("securityContext", {}).get(name, of_pod.get(name))
                found[f"spec.{kind}[{index}].securityContext.{name}"] = value
    return [f"{path}: {value} is not in {allowed.start} to {allowed.stop - 1}" for path, value in found.items() if value not in allowed]


# ---- who runs


@dataclass(frozen=True, slots=True)
class Ids:
    """Of a process, as the kernel tells them in /proc/PID/status: real, effective, saved and file system's; further groups."""

    users: frozenset[int]
    groups: frozenset[int]
    further: frozenset[int]


@dataclass(slots=True)
class Seen:
    """Containers by their ids: who ran in them, and whose they are (`namespace`, pod's labels, container's name)."""

    ids: dict[str, set[Ids]] = field(default_factory=dict)
    containers: dict[str, tuple[str, dict[str, str], str]] = field(default_factory=dict)


@contextlib.contextmanager
def watched(cluster: Cluster, folder: Path) -> Iterator[Seen]:
    """Looks into every container of the nodes while the block runs; what was seen is whole after it."""
    seen, over = Seen(), threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_SECONDS):
            for node in cluster.nodes:
                _look(node.name, seen)

    watcher = threading.Thread(target=look)
    watcher.start()
    pods = folder / "pods"
    command = [kubectl_program(), f"--kubeconfig={cluster.kubeconfig}", "get", "pods", "-A", "--watch", "-o=json"]
    try:
        with pods.open("wb") as output, subprocess.Popen(command, stdout=output) as stream:
            try:
                yield seen
            finally:
                stream.terminate()
    finally:
        over.set()
        watcher.join()
    for pod in _objects(pods.read_text()):
        statuses = [*pod["status"].get("initContainerStatuses", []), *pod["status"].get("containerStatuses", [])]
        for one in statuses:
            if container := one.get("containerID", "").rpartition("/")[2]:
                metadata = pod["metadata"]
                seen.containers[container] = (metadata["namespace"], metadata.get("labels", {}), one["name"])


def _look(node: str, seen: Seen) -> None:
    for process, container in cgroups.containers_of(node).items():
        with contextlib.suppress(OSError):  # it has ended
            told = Path(f"/proc/{process}/status").read_text()
            if told.startswith("Name:\trunc"):
                continue  # it is about to become the container's first process, and still root
            numbers = {name: tuple(map(int, rest.split())) for name, rest in re.findall(r"^(Uid|Gid|Groups):(.*)$", told, re.MULTILINE)}
            ids = Ids(frozenset(numbers["Uid"]), frozenset(numbers["Gid"]), frozenset(numbers["Groups"]))
            seen.ids.setdefault(container, set()).add(ids)


def _objects(text: str) -> Iterator[Json]:
    """The objects of a stream; one that is cut off at its end is left out."""
    decoder, at = json.JSONDecoder(), 0
    while at < len(text):
        try:
            found, end = decoder.raw_decode(text, at)
        except ValueError:
            return
        yield found
        at = end + len(text[end:]) - len(text[end:].lstrip())
