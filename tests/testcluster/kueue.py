"""Kueue: what its release installs, and its controller as a process beside the cluster, with the rights of its release.

The controller serves webhooks for Jobs, RayJobs and pods, and refuses them all while it is away, as on any cluster. The API server
reaches it by address: there is no pod and no Service of it. Its certificate is ours, in the Secret where Kueue keeps its own.
"""

import base64
import json
import urllib.request
from pathlib import Path
from typing import Any, Final

import yaml
from tests.testcluster.any_cluster import kubectl_program
from tests.testcluster.binaries import binaries, kueue_manifests
from tests.testcluster.certificates import Authority, KeyPair
from tests.testcluster.control_plane import ControlPlane
from tests.testcluster.kuberay import apply_crds
from tests.testcluster.processes import free_ports

Json = dict[str, Any]

NAME: Final = "kueue"
NAMESPACE: Final = "kueue-system"
_ACCOUNT: Final = f"system:serviceaccount:{NAMESPACE}:kueue-controller-manager"
_SECRET: Final = "kueue-webhook-server-cert"
_SERVICE: Final = "kueue-webhook-service"
_CONFIG: Final = "kueue-manager-config"
# Of a pod that isn't there: what runs it, what leads to it, and the API that it would serve beside the webhooks.
_OF_THE_POD: Final = ("Deployment", "Service", "APIService", "ConfigMap", "Secret")
_START_SECONDS: Final = 60.0


def start_kueue(plane: ControlPlane, **settings: Any) -> None:
    """Install Kueue, or what differs, and start its controller anew. `settings` are fields of its Configuration beside its release's."""
    plane.processes.stop(NAME)
    folder = plane.folder / "kueue"
    folder.mkdir(exist_ok=True)
    webhook, health, metrics = free_ports(3, plane.address)
    manifests = list(yaml.load_all(kueue_manifests().read_text(encoding="utf-8"), yaml.CSafeLoader))
    authority, pair = _certificate(folder, plane.address)

    _install(plane, manifests, authority, pair, f"https://{plane.address}:{webhook}")
    release = next(one["data"] for one in manifests if one["metadata"]["name"] == _CONFIG)
    configuration = yaml.safe_load(release["controller_manager_config.yaml"]) | {
        "namespace": NAMESPACE,
        "health": {"healthProbeBindAddress": f"{plane.address}:{health}"},
        "metrics": {"bindAddress": f"{plane.address}:{metrics}"},
        "webhook": {"host": plane.address, "port": webhook, "certDir": str(pair.certificate.parent)},
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": True, "webhookServiceName": _SERVICE, "webhookSecretName": _SECRET},
        # An API of its own, whose certificate would lie in a folder of the pod's.
        "featureGates": {"VisibilityOnDemand": False},
        **settings,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
    kubeconfig = plane.user_kubeconfig(_ACCOUNT, groups=("system:serviceaccounts", "system:authenticated"))
    command = [binaries([NAME])[NAME], f"--config={folder / 'config.yaml'}", f"--kubeconfig={kubeconfig}"]
    plane.processes.start(NAME, command)
    plane.processes.wait_until(NAME, lambda: _is_ready(f"http://{plane.address}:{health}/readyz"), seconds=_START_SECONDS)


def _install(plane: ControlPlane, manifests: list[Json], authority: Authority, pair: KeyPair, url: str) -> None:
    """CRDs first, in files of their own; then the rest, in the release's order."""
    crds = plane.folder / "kueue/crds"
    crds.mkdir(exist_ok=True)
    rest: list[Json] = []
    for manifest in manifests:
        if manifest["kind"] == "CustomResourceDefinition":
            _reached_by(manifest["spec"].get("conversion", {}).get("webhook", {}), url, authority)
            (crds / f"{manifest['metadata']['name']}.yaml").write_text(json.dumps(manifest), encoding="utf-8")
        elif manifest["kind"] not in _OF_THE_POD:
            for webhook in manifest.get("webhooks", []):
                _reached_by(webhook, url, authority)
            rest.append(manifest)
    secret = {name: path.read_text() for name, path in _files(authority, pair).items()}
    rest.append({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": _SECRET, "namespace": NAMESPACE}, "stringData": secret})
    apply_crds(kubectl_program(), plane.kubeconfig, crds)
    file = plane.folder / "kueue/manifests.yaml"
    file.touch(mode=0o600)
    file.write_text("\n---\n".join(map(json.dumps, rest)), encoding="utf-8")
    plane.kubectl("apply", "--server-side", "--force-conflicts", f"--filename={file}")


def _reached_by(webhook: Json, url: str, authority: Authority) -> None:
    """Let the API server call the process."""
    if client := webhook.get("clientConfig"):
        service = client.pop("service")
        client |= {"url": f"{url}{service['path']}", "caBundle": _base64(authority.certificate)}


def _certificate(folder: Path, address: str) -> tuple[Authority, KeyPair]:
    """An authority and a pair that Kueue takes for its own, in the files of its Secret."""
    authority = Authority.create(folder / "keys", "kueue-ca", hosts=["kueue-ca"], rsa_key=True)
    return authority, authority.issue("tls", _SERVICE, hosts=[f"{_SERVICE}.{NAMESPACE}.svc", address])


def _files(authority: Authority, pair: KeyPair) -> dict[str, Path]:
    return {"ca.crt": authority.certificate, "ca.key": authority.key, "tls.crt": pair.certificate, "tls.key": pair.key}


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _is_ready(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
