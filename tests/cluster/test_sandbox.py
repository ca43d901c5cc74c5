"""The sandbox of docs/sandbox.md in a pod: it refuses where a pod may make no namespaces, and works where it may."""

import json

import pytest
from tests.cluster.pods import POD_SECURITY, pod, wait_for_phase
from tests.testcluster.cluster import Cluster

# The cluster is our own, or the tests are skipped.
pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("own_cluster")]

TRY = """
from finetune_api.errors import NoSandbox
from finetune_assistant.sandbox.run import execute
try:
    execution = execute("import os, socket; print(os.getuid(), sorted(os.listdir('/')))")
    print(execution.stdout or execution)
except NoSandbox as error:
    print(error)
"""


def said(cluster: Cluster, namespace: str, **security: object) -> str:
    """What a pod prints that tries the sandbox; `security` are fields of the pod's security context."""
    cluster.apply(pod("sandbox", namespace, ["python", "-c", TRY], securityContext=POD_SECURITY | security))
    wait_for_phase(cluster, namespace, "sandbox", "Succeeded")
    return cluster.kubectl("logs", "sandbox", f"--namespace={namespace}")


def test_a_restricted_pod_runs_no_code_and_says_what_helps(cluster: Cluster, namespace: str) -> None:
    told = said(cluster, namespace)
    assert told.startswith("code isn't run: "), told
    assert "a pod: securityContext with seccompProfile" in told


def test_a_pod_that_may_make_namespaces_runs_code(cluster: Cluster, namespace: str) -> None:
    """As the remedy says: without the runtime's filter of system calls, which takes a namespace that isn't restricted."""
    cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=privileged", "--overwrite")
    told = said(cluster, namespace, seccompProfile={"type": "Unconfined"})
    assert told.startswith("1000 ['bin', "), told


def test_a_restricted_pod_runs_code_behind_a_profile_of_its_node(cluster: Cluster, namespace: str) -> None:
    """Unconfined isn't allowed there; a file of the administrator's that lets these calls through is."""
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["ptrace", "bpf", "setns"], "action": "SCMP_ACT_ERRNO"}]}
    for node in cluster.nodes:
        folder = node.folder / "kubelet/seccomp"
        folder.mkdir(exist_ok=True)
        (folder / "sandbox.json").write_text(json.dumps(profile))
    told = said(cluster, namespace, seccompProfile={"type": "Localhost", "localhostProfile": "sandbox.json"})
    assert told.startswith("1000 ['bin', "), told
