"""One node: a containerd and a kubelet with everything of their own, so that several nodes share a machine without meeting.

In: a folder, the control plane's certificates, binaries. Out: the two commands and their configuration, and what else a node can
do to a cluster: be lost with all it runs, come back, advertise GPUs that it has not got. Needs root.
"""

import contextlib
import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from tests.testcluster import cgroups
from tests.testcluster.dns import DOMAIN
from tests.testcluster.host_python import HANDLER, write_runtime_spec
from tests.testcluster.network import DNS_ADDRESS, bridge, node_address, node_subnet
from tests.testcluster.pause import PAUSE_IMAGE

CNI_PROGRAMS: Final = "/usr/lib/cni"  # where Debian's containernetworking-plugins has them
POD_LOG_LINKS: Final = Path("/var/log/containers")  # kubelet's, whatever its configuration says
CNI_RESULTS: Final = Path("/var/lib/cni/results")  # libcni's, whatever its configuration says
KUBELET_PORT: Final = 10250
SHIM_SOCKETS: Final = Path("/run/containerd/s")  # containerd 1.6 and 1.7 know no other place


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node by its number, and the folder that holds all it writes."""

    index: int
    folder: Path

    @property
    def name(self) -> str:
        return f"node-{self.index}"

    @property
    def address(self) -> str:
        return node_address(self.index)

    @property
    def containerd(self) -> Path:
        """containerd's socket."""
        return self.folder / "containerd.sock"

    @property
    def programs(self) -> tuple[str, str]:
        """What its two processes are called in the records, in the order of their start."""
        return (f"{self.name}-containerd", f"{self.name}-kubelet")


def containerd_command(node: Node) -> list[str]:
    """Write containerd's configuration and the pods' network; the command that runs it, inside the cluster's network."""
    node.folder.mkdir(parents=True, exist_ok=True)
    networks = node.folder / "cni"
    networks.mkdir(exist_ok=True)
    (networks / "10-bridge.conflist").write_text(json.dumps(_pod_network(node)))
    write_runtime_spec(node.folder / "host-python.json")
    configuration = node.folder / "containerd.toml"
    configuration.write_text(_containerd_configuration(node))
    return ["containerd", "--config", str(configuration), "--log-level", "info"]


def kubelet_command(node: Node, kubelet: Path, *, kubeconfig: Path, client_ca: Path) -> list[str]:
    """Write the kubelet's configuration; the command that runs it, inside the cluster's network."""
    resolv_conf = node.folder / "resolv.conf"
    resolv_conf.write_text("")  # a pod that asks for the node's DNS gets none, not this machine's
    configuration = node.folder / "kubelet.yaml"
    configuration.write_text(yaml.safe_dump(_kubelet_configuration(node, client_ca)))
    cgroups.make_cgroups(node.name)
    options = {
        "config": configuration, "kubeconfig": kubeconfig, "root-dir": node.folder / "kubelet", "cert-dir": node.folder / "pki",
        "hostname-override": node.name, "node-ip": node.address, "v": 2,
    }  # fmt: skip
    return [str(kubelet), *(f"--{name}={value}" for name, value in options.items())]


def containerd_answers(node: Node) -> bool:
    """Whether containerd serves."""
    command = ["ctr", "--connect-timeout", "2s", "-a", str(node.containerd), "version"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def remove_leftovers(node: Node) -> None:
    """After its programs have ended: end its pods, unmount what it mounted, remove its folder and what it put elsewhere."""
    cgroups.end_pods(node.name)
    remove_shim_sockets(node)
    unmount_below(node.folder)
    for result in CNI_RESULTS.glob(f"{_network_name(node)}-*-eth0"):
        pod = result.name.removeprefix(f"{_network_name(node)}-").removesuffix("-eth0")
        result.unlink()
        (CNI_RESULTS / f"cni-loopback-{pod}-lo").unlink(missing_ok=True)
    for link in POD_LOG_LINKS.glob("*.log"):
        if link.is_symlink() and link.readlink().is_relative_to(node.folder):
            link.unlink()
    for folder in (POD_LOG_LINKS, CNI_RESULTS, CNI_RESULTS.parent, SHIM_SOCKETS, SHIM_SOCKETS.parent):
        with contextlib.suppress(OSError):  # absent, or others use it
            folder.rmdir()
    shutil.rmtree(node.folder, ignore_errors=True)


def remove_shim_sockets(node: Node) -> None:
    """Remove the sockets of containers' keepers that were killed. containerd forgets where they are when it starts again."""
    for address in node.folder.glob("state/io.containerd.runtime.v2.task/k8s.io/*/address"):
        socket = Path(address.read_text().strip().removeprefix("unix://"))
        if socket.is_relative_to(SHIM_SOCKETS):
            socket.unlink(missing_ok=True)


def unmount_below(folder: Path) -> None:
    """Unmount all below `folder`, the last mounted first. Raises RuntimeError if something stays: it must not be deleted through."""
    for point in reversed(mounts_below(folder)):
        subprocess.run(["umount", "--lazy", str(point)], check=False, capture_output=True)
    if remaining := mounts_below(folder):
        raise RuntimeError(f"{remaining[0]} can't be unmounted; umount it, then: python -m tests.testcluster down")


def mounts_below(folder: Path) -> list[Path]:
    """What is mounted below `folder`, in the order of mounting."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [Path(line.split()[4].encode().decode("unicode_escape")) for line in lines]
    return [point for point in points if point.is_relative_to(folder)]


def gpu_patch(count: int) -> list[dict[str, str]]:
    """JSON patch of a node's status that advertises GPUs. The kubelet keeps what it does not know, and derives allocatable from it."""
    return [{"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": str(count)}]


def _network_name(node: Node) -> str:
    return f"finetune-cluster-{node.name}"


def _pod_network(node: Node) -> dict[str, object]:
    """The CNI's chain: an address of the node's subnet behind its bridge, ports on demand. Nothing is masqueraded: nothing leaves."""
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": node_subnet(node.index), "gateway": node.address}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    addresses["dataDir"] = str(node.folder / "addresses")
    interface = {"type": "bridge", "bridge": bridge(node.index), "isGateway": True, "hairpinMode": True, "ipam": addresses}
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": _network_name(node), "plugins": [interface, ports]}


def _containerd_configuration(node: Node) -> str:
    # An image's layers can't lie on another overlay, as in a container; copies are slower and work everywhere.
    snapshotter = "native" if _file_system(node.folder) == "overlayfs" else "overlayfs"
    return f"""\
version = 2
root = "{node.folder}/containerd"
state = "{node.folder}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]

[grpc]
  address = "{node.containerd}"

[plugins."io.containerd.internal.v1.opt"]
  path = "{node.folder}/opt"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
    default_runtime_name = "runc"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        Root = "{node.folder}/runc"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{HANDLER}]
      runtime_type = "io.containerd.runc.v2"
      base_runtime_spec = "{node.folder}/host-python.json"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{HANDLER}.options]
        SystemdCgroup = false
        Root = "{node.folder}/runc"

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PROGRAMS}"
    conf_dir = "{node.folder}/cni"
"""


def _kubelet_configuration(node: Node, client_ca: Path) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.address,
        "port": KUBELET_PORT,
        "healthzBindAddress": node.address,
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}, "x509": {"clientCAFile": str(client_ca)}},
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{node.containerd}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroups.cgroup(node.name),
        "podLogsDir": str(node.folder / "pod-logs"),
        "volumePluginDir": str(node.folder / "volume-plugins"),
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": DOMAIN,
        "resolvConf": str(node.folder / "resolv.conf"),
        # Tolerates that oom_score_adj and kernel settings can't be written, as in a container or a small virtual machine.
        "featureGates": {"KubeletInUserNamespace": True},
        "localStorageCapacityIsolation": False,
        "makeIPTablesUtilChains": False,
        "failSwapOn": False,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "nodeStatusUpdateFrequency": "5s",
        "nodeStatusReportFrequency": "1m",
        "syncFrequency": "10s",
    }


def _file_system(folder: Path) -> str:
    done = subprocess.run(["stat", "-f", "-c", "%T", str(folder)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def missing_programs(names: Sequence[str] = ("containerd", "ctr", "runc", "ip", "nft", "conntrack", "nsenter", "iptables")) -> list[str]:
    """Programs of the operating system that a node needs and that are not here."""
    absent = [name for name in names if shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin") is None]
    return absent + [f"{CNI_PROGRAMS}/{name}" for name in ("bridge", "host-local", "portmap") if not Path(CNI_PROGRAMS, name).exists()]
