"""The cluster itself, before anything of ours runs in it: what these tests show is what the others rely on."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.pods import pod, service, wait_for_phase
from tests.testcluster import cgroups
from tests.testcluster.cluster import Cluster, start
from tests.trainer.hub_server import HubServer

# The cluster is our own, or the tests are skipped.
pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("own_cluster")]

# What a pod sees of the network, as JSON: the other pod by its address, itself by its service's name, the API by the service address.
LOOK_AROUND = """
import json, os, socket, ssl, sys, urllib.request
def text(url):
    context = ssl._create_unverified_context() if url.startswith("https") else None
    return urllib.request.urlopen(url, timeout=10, context=context).read().decode().strip()
def error(function, *arguments):
    try:
        return repr(function(*arguments))
    except OSError as error:
        return type(error).__name__
other, name = sys.argv[1:]
print(json.dumps({
    "other": text(f"http://{other}:8000/name"),
    "service": text(f"http://{name}:8000/name"),
    "address": socket.gethostbyname(f"{name}.svc.cluster.local"),
    "api": json.loads(text("https://10.96.0.1/version"))["gitVersion"],
    "unknown": error(socket.gethostbyname, "example.com"),
    "outside": error(socket.create_connection, ("203.0.113.1", 80), 5),
}))
"""
SERVE = """
import http.server, os
os.chdir("/tmp")
open("name", "w").write("{name}")
http.server.test(http.server.SimpleHTTPRequestHandler, port=8000)
"""
IMPORT_RAY = """
import getpass, os, resource, sys
import ray, finetune_trainer
print(os.getuid(), os.getgid(), getpass.getuser(), sys.executable, ray.__version__, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
"""
STORE = """
import os
import boto3, huggingface_hub
path = huggingface_hub.hf_hub_download("org/from-a-pod", "config.json", cache_dir="/tmp/hub")
boto3.client("s3", endpoint_url=os.environ["ENDPOINT"], region_name="us-east-1").upload_file(path, "from-a-pod", "config.json")
"""


def test_both_nodes_are_ready(cluster: Cluster) -> None:
    nodes = json.loads(cluster.kubectl("get", "nodes", "--output=json"))["items"]
    ready = {node["metadata"]["name"]: _condition(node, "Ready") for node in nodes}
    assert ready == {"node-0": "True", "node-1": "True"}
    assert len({_address(node) for node in nodes}) == 2


def test_pods_reach_each_other_services_and_names_and_nothing_outside(cluster: Cluster, namespace: str) -> None:
    names = ["first", "second"]
    for index, name in enumerate(names):
        command = ["python", "-c", SERVE.format(name=name)]
        cluster.apply(pod(name, namespace, command, node=f"node-{index}"), service(name, namespace, 8000))
    addresses = {name: wait_for_phase(cluster, namespace, name, "Running")["status"]["podIP"] for name in names}
    for name, other in (("first", "second"), ("second", "first")):
        _wait_until_served(cluster, namespace, name, other)
        arguments = [addresses[other], f"{other}.{namespace}"]
        seen = json.loads(cluster.kubectl("exec", name, f"--namespace={namespace}", "--", "python", "-c", LOOK_AROUND, *arguments))
        assert seen["other"] == seen["service"] == other
        assert seen["address"] == cluster.get("service", other, namespace)["spec"]["clusterIP"]
        assert seen["api"] == "v1.34.2"
        assert seen["unknown"] == "gaierror"
        assert seen["outside"] in ("OSError", "TimeoutError", "ConnectionRefusedError"), "a packet left the cluster"


def test_a_pod_uses_s3_and_the_hub(cluster: Cluster, namespace: str, hub: HubServer) -> None:
    hub.create("org/from-a-pod", {"config.json": b"{}"})
    cluster.s3.make_bucket("from-a-pod")
    cluster.apply(cluster.s3.secret("s3", namespace))
    env = [{"name": "HF_ENDPOINT", "value": hub.url}, {"name": "ENDPOINT", "value": cluster.s3.endpoint}]
    asked = pod("storage", namespace, ["python", "-c", STORE])
    asked["spec"]["containers"][0] |= {"env": env, "envFrom": [{"secretRef": {"name": "s3"}}]}
    cluster.apply(asked)
    wait_for_phase(cluster, namespace, "storage", "Succeeded")
    assert cluster.s3.client().get_object(Bucket="from-a-pod", Key="config.json")["Body"].read() == b"{}"


def test_a_restricted_pod_has_this_python_with_ray(cluster: Cluster, namespace: str) -> None:
    cluster.apply(pod("python", namespace, ["python", "-c", IMPORT_RAY]))
    wait_for_phase(cluster, namespace, "python", "Succeeded")
    uid, gid, user, executable, version, open_files = cluster.kubectl("logs", "python", f"--namespace={namespace}").split()
    assert (uid, gid, user) == ("1000", "1000", "finetune")
    assert Path(executable).parent.name == "bin"
    assert version.startswith("2.")
    assert int(open_files) > 1024


def test_pod_security_refuses_root(cluster: Cluster, namespace: str) -> None:
    with pytest.raises(RuntimeError, match="violates PodSecurity"):
        cluster.apply(pod("root", namespace, ["python"], securityContext={"runAsUser": 0}))


def test_a_pod_takes_all_gpus_of_a_node_that_says_it_has_some(cluster: Cluster, namespace: str) -> None:
    for node in cluster.nodes:
        cluster.advertise_gpus(node, 8)
    for name in ("one", "two"):
        cluster.apply(pod(name, namespace, ["sleep", "60"], gpus=8))
    placed = {wait_for_phase(cluster, namespace, name, "Running")["spec"]["nodeName"] for name in ("one", "two")}
    assert placed == {"node-0", "node-1"}


def test_a_lost_node_comes_back(cluster: Cluster, namespace: str) -> None:
    node = cluster.nodes[1]
    cluster.apply(pod("before", namespace, ["sleep", "600"], node=node.name))
    wait_for_phase(cluster, namespace, "before", "Running")
    cluster.lose(node)
    assert cgroups.processes_of(node.name) == []
    cluster.bring_back(node)
    cluster.apply(pod("after", namespace, ["python", "-c", ""], node=node.name))
    wait_for_phase(cluster, namespace, "after", "Succeeded")


def test_a_second_cluster_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a test cluster is up already"):
        start(tmp_path, outlive=False)
    assert cluster.kubectl("get", "--raw=/readyz") == "ok"


def _wait_until_served(cluster: Cluster, namespace: str, asker: str, name: str, seconds: float = 30.0) -> None:
    """Return once kube-proxy on the asker's node knows where the service's pod is and the pod answers; each node's hears it by itself."""
    deadline = time.monotonic() + seconds
    probe = f"import urllib.request; urllib.request.urlopen('http://{name}:8000/name', timeout=2)"
    while True:
        try:
            cluster.kubectl("exec", asker, f"--namespace={namespace}", "--", "python", "-c", probe)
            return
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _condition(node: dict[str, Any], kind: str) -> str:
    return next(str(condition["status"]) for condition in node["status"]["conditions"] if condition["type"] == kind)


def _address(node: dict[str, Any]) -> str:
    return next(str(address["address"]) for address in node["status"]["addresses"] if address["type"] == "InternalIP")
