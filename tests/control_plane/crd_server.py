"""The API server as its own judge: plain requests over kept connections, dry-run where nothing is to be kept."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from kubernetes import config
from tests.testcluster.control_plane import ControlPlane

from finetune_api.crd import CRDS
from finetune_api.keys import API_VERSION

MANIFESTS = Path(__file__).parents[2] / "manifests" / "crd"
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
_CONNECTIONS = 4
_ESTABLISHED_SECONDS = 60.0


def server_with_crds(plane: ControlPlane, namespace: str) -> "Server":
    """A new namespace of the control plane, which knows both CRDs."""
    plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", MANIFESTS)
    plane.kubectl("create", "namespace", namespace)
    server = Server(plane.kubeconfig, namespace)
    # Not `kubectl wait`: it fails on a definition that has no conditions yet.
    deadline = time.monotonic() + _ESTABLISHED_SECONDS
    while not all(server.serves(plural) for plural in CRDS):
        assert time.monotonic() < deadline, "the API server does not serve the CRDs"
        time.sleep(0.1)
    return server


class Server:
    """One namespace of an API server, as the administrator. Unknown fields are refused, not dropped."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        client = config.new_client_from_config(str(kubeconfig))
        client.configuration.connection_pool_maxsize = _CONNECTIONS
        self._pool = client.rest_client.pool_manager
        self._base = f"{client.configuration.host}/apis/{API_VERSION}/namespaces/{namespace}"

    def serves(self, plural: str) -> bool:
        return self._request("GET", plural, None, dry_run=False)[0] == 200

    def create(self, plural: str, manifest: Any, *, dry_run: bool = True) -> tuple[int, dict[str, Any]]:
        return self._request("POST", plural, manifest, dry_run=dry_run)

    def replace(self, plural: str, manifest: Any, *, dry_run: bool = True) -> tuple[int, dict[str, Any]]:
        return self._request("PUT", f"{plural}/{manifest['metadata']['name']}", manifest, dry_run=dry_run)

    def patch_status(self, plural: str, name: str, status: Any, *, dry_run: bool = True) -> tuple[int, dict[str, Any]]:
        return self._request("PATCH", f"{plural}/{name}/status", {"status": status}, dry_run=dry_run, content=MERGE_PATCH)

    def delete_all(self, plural: str) -> None:
        status, reply = self._request("DELETE", plural, None, dry_run=False)
        assert status == 200, reply

    def _request(self, method: str, path: str, body: Any, *, dry_run: bool, content: str = JSON) -> tuple[int, dict[str, Any]]:
        query = {"fieldValidation": "Strict"} if body is not None else {}
        query |= {"dryRun": "All"} if dry_run else {}
        data = None if body is None else json.dumps(as_kubectl_sends(body), allow_nan=False).encode()
        reply = self._pool.request(method, f"{self._base}/{path}?{urlencode(query)}", body=data, headers={"Content-Type": content})
        return reply.status, json.loads(reply.data) if reply.headers.get("Content-Type", "").startswith(JSON) else {}


def as_kubectl_sends(value: Any) -> Any:
    """Whole numbers without a point, as Go writes them: 3.0 of a YAML file leaves kubectl as 3.

    >>> as_kubectl_sends({"a": [3.0, 1e300, 0.5, True]})
    {'a': [3, 1e+300, 0.5, True]}
    """
    if isinstance(value, dict):
        return {name: as_kubectl_sends(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [as_kubectl_sends(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e21 else value


def at_once(judge: Any, cases: Any) -> list[Any]:
    """judge(case) for each, several at a time; what isn't None."""
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        return [found for found in pool.map(judge, cases) if found is not None]
