"""The `restricted` Pod Security Standard as a function: what in a pod's spec breaks it (kubernetes.io, Pod Security Standards)."""

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

VOLUME_KINDS = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SECCOMP = {"RuntimeDefault", "Localhost"}


def violations(spec: Json) -> list[str]:
    """Everything in the pod's spec that `restricted` forbids; none for a pod that it admits."""
    found = [*_host(spec), *_volumes(spec)]
    for container in [*spec["containers"], *spec.get("initContainers", []), *spec.get("ephemeralContainers", [])]:
        found += [f"{container['name']}: {told}" for told in _container(container, spec.get("securityContext", {}))]
    return found


def _host(spec: Json) -> Iterator[str]:
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield field
    context = spec.get("securityContext", {})
    if context.get("sysctls"):
        yield "sysctls"
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield "hostProcess"
    if context.get("runAsUser") == 0:
        yield "pod runs as root"


def _volumes(spec: Json) -> Iterator[str]:
    for volume in spec.get("volumes", []):
        for kind in volume.keys() - {"name"} - VOLUME_KINDS:
            yield f"volume {volume['name']} is a {kind}"


def _container(container: Json, pod: Json) -> Iterator[str]:
    own = container.get("securityContext", {})
    if own.get("privileged"):
        yield "privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation"
    if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot"
    if own.get("runAsUser") == 0:
        yield "runs as root"
    if (own.get("seccompProfile") or pod.get("seccompProfile") or {}).get("type") not in SECCOMP:
        yield "seccompProfile"
    if own.get("procMount", "Default") != "Default":
        yield "procMount"
    yield from _capabilities(own.get("capabilities", {}))
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield "hostPort"


def _capabilities(capabilities: Json) -> Iterator[str]:
    if "ALL" not in capabilities.get("drop", []):
        yield "capabilities are not dropped"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "capabilities are added"
