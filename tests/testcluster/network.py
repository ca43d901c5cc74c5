"""The cluster's network: one network name space with a bridge for each node, and one cable to this machine. It has no way out.

Pods, kubelets, containerds and kube-proxy live in the name space. This machine (API server, S3, Hub, KubeRay, tests) is the other end
of the cable, at HOST_ADDRESS, and reaches pods and services through it. The name space has no default route, so nothing can
leave, and no setting, table or bridge of this machine is touched. Needs root and iproute2.
"""

import ipaddress
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

NAMESPACE: Final = "finetune-cluster"
CABLE: Final = "ftc-host"  # the machine's end; the other end is called `uplink`, though nothing is above it
HOST_ADDRESS: Final = "10.245.0.1"
GATEWAY: Final = "10.245.0.2"
CABLE_RANGE: Final = "10.245.0.0/30"
POD_RANGE: Final = "10.244.0.0/16"
SERVICE_RANGE: Final = "10.96.0.0/16"
RANGES: Final = (CABLE_RANGE, POD_RANGE, SERVICE_RANGE)
DNS_ADDRESS: Final = "10.244.0.1"


def node_subnet(index: int) -> str:
    """Pod addresses of node `index`."""
    return f"10.244.{index}.0/24"


def node_address(index: int) -> str:
    """The node's own address: its bridge's, which is its pods' gateway."""
    return f"10.244.{index}.1"


def bridge(index: int) -> str:
    return f"node-{index}"


def inside(command: list[str]) -> list[str]:
    """The command, run in the cluster's network and nowhere else: file systems and processes stay this machine's."""
    return ["nsenter", f"--net=/run/netns/{NAMESPACE}", "--", *command]


def make_network(nodes: int) -> None:
    """Make the name space, the cable and `nodes` bridges. Raises RuntimeError when a range is in use here."""
    refuse_taken_ranges()
    _ip(f"netns add {NAMESPACE}")
    _ip(f"link add {CABLE} type veth peer name uplink netns {NAMESPACE}")
    _ip(f"address add {HOST_ADDRESS}/30 dev {CABLE}")
    _ip(f"link set {CABLE} up")
    _ip("link set lo up", netns=True)
    _ip(f"address add {GATEWAY}/30 dev uplink", netns=True)
    _ip("link set uplink up", netns=True)
    for index in range(nodes):
        _ip(f"link add {bridge(index)} type bridge", netns=True)
        _ip(f"address add {node_address(index)}/24 dev {bridge(index)}", netns=True)
        _ip(f"link set {bridge(index)} up", netns=True)
    # A packet to a service needs a route before kube-proxy's rules may change its target; this one ends at a bridge without ports.
    _ip("link add services type bridge", netns=True)
    _ip("link set services up", netns=True)
    _ip(f"route add {SERVICE_RANGE} dev services", netns=True)
    for network in (POD_RANGE, SERVICE_RANGE):
        _ip(f"route add {network} via {GATEWAY} dev {CABLE}")
    # Bridged packets pass the rules too: a service answers from the pod beside its caller.
    for setting in ("net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"):
        _run(inside(["sh", "-c", f"test ! -e /proc/sys/{setting} || echo 1 > /proc/sys/{setting}"]))


def remove_network() -> None:
    """Remove all of it, also what a crash left; nothing happens when there is none. Kills what still runs in it."""
    if not network_exists():
        return
    end(processes_inside())
    if Path(f"/sys/class/net/{CABLE}").exists():
        _ip(f"link delete {CABLE}")
    _ip(f"netns delete {NAMESPACE}")


def network_exists() -> bool:
    return Path(f"/run/netns/{NAMESPACE}").exists()


def processes_inside() -> list[int]:
    """Ids of the processes in the name space: the nodes' programs and their containers' keepers, not the pods (they have their own)."""
    return [int(line) for line in _ip(f"netns pids {NAMESPACE}").split()] if network_exists() else []


def end(processes: list[int], seconds: float = 10.0) -> None:
    """Kill these processes and wait until they are gone, or have become zombies of a parent that isn't us."""
    for process in processes:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(_alive(process) for process in processes):
        time.sleep(0.05)


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def refuse_taken_ranges() -> None:
    """Raise RuntimeError if a route of this machine leads to one of the cluster's ranges already."""
    for route in json.loads(_ip("-json -4 route show")):
        if route["dst"] == "default":
            continue
        for network in RANGES:
            if ipaddress.ip_network(route["dst"], strict=False).overlaps(ipaddress.ip_network(network)):
                where = f"{route['dst']} dev {route.get('dev', '?')}"
                raise RuntimeError(
                    f"the test cluster needs {network}, but this machine has a route {where}; remove what made it (another cluster?)"
                )


def _ip(arguments: str, *, netns: bool = False) -> str:
    return _run(["ip", *(["-n", NAMESPACE] if netns else []), *arguments.split()])


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
