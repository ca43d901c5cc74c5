"""The whole test cluster: network, control plane, nodes, names, KubeRay, S3; whole, Kueue and a Hub. `remove` leaves nothing of it."""

import contextlib
import functools
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.testcluster import cgroups, machine, network
from tests.testcluster.any_cluster import AnyCluster, kubectl_program
from tests.testcluster.binaries import binaries, kuberay_crds
from tests.testcluster.certificates import write_kubeconfig
from tests.testcluster.control_plane import ControlPlane, ExtraFlags
from tests.testcluster.dns import dns_command
from tests.testcluster.host_python import HANDLER, RUNTIME_CLASS, check_place, unreadable_files
from tests.testcluster.hub import HUB_PORT, hub_command, hub_url
from tests.testcluster.images import TRAINER_IMAGE, ImageArchive, import_image, trainer_image
from tests.testcluster.kuberay import HEALTH_PORT, apply_crds, kuberay_command
from tests.testcluster.kueue import start_kueue
from tests.testcluster.node import (
    KUBELET_PORT,
    Node,
    containerd_answers,
    containerd_command,
    gpu_patch,
    kubelet_command,
    missing_programs,
    remove_shim_sockets,
)
from tests.testcluster.pause import pause_image
from tests.testcluster.processes import Processes
from tests.testcluster.s3 import s3, s3_command, s3_is_ready

DEBIAN_PACKAGES: Final = "containerd runc containernetworking-plugins iptables conntrack nftables iproute2 util-linux"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster(AnyCluster):
    """A running cluster of our own: what tests and people do with it."""

    control_plane: ControlPlane
    nodes: tuple[Node, ...]

    @classmethod
    def load(cls, folder: Path) -> "Cluster":
        """The cluster that an earlier Python process made."""
        return cls.of(ControlPlane.load(folder), machine.nodes_in(folder))

    @classmethod
    def of(cls, control_plane: ControlPlane, nodes: Iterable[Node]) -> "Cluster":
        """The cluster of these parts. Its trainer's image is nearly empty: the runtime class shows pods this machine's Python."""
        return cls(
            control_plane=control_plane,
            nodes=tuple(nodes),
            kubeconfig=control_plane.kubeconfig,
            s3=s3(control_plane.folder / "s3"),
            hub_url=hub_url(),
            trainer_image=TRAINER_IMAGE,
            runtime_class=HANDLER,
        )

    @property
    def folder(self) -> Path:
        """What the cluster writes."""
        return self.control_plane.folder

    @property
    def processes(self) -> Processes:
        """Records and logs of all programs."""
        return self.control_plane.processes

    def import_image(self, archive: ImageArchive) -> None:
        """Give an archive to every node; pods then use its name with `imagePullPolicy: IfNotPresent` or `Never`."""
        for node in self.nodes:
            import_image(node.containerd, archive)

    def advertise_gpus(self, node: Node, count: int) -> None:
        """Let a node offer `nvidia.com/gpu` that it has not got: GPU pods schedule and run. A restarted kubelet offers none."""
        patch = json.dumps(gpu_patch(count))
        self.kubectl("patch", "node", node.name, "--subresource=status", "--type=json", f"--patch={patch}")
        self._wait_until(
            lambda: self.get("node", node.name)["status"]["allocatable"].get("nvidia.com/gpu") == str(count),
            60.0,
            f"{node.name} does not offer {count} GPUs",
        )

    def lose(self, node: Node) -> None:
        """The node is gone from one moment to the next, with all it runs. The API server notices by its silence."""
        for program in reversed(node.programs):
            self.processes.kill(program)
        # The shims are the only ones that know containerd's socket; they hold no pod together any more.
        network.end([process for process in network.processes_inside() if _names(process, node.containerd)])
        cgroups.end_pods(node.name)
        remove_shim_sockets(node)

    def bring_back(self, node: Node) -> None:
        """Start a lost node again, as after a reboot: what it ran is gone, its images are not."""
        _start_node(self.control_plane, node)
        self.wait_ready()

    def wait_ready(self, seconds: float = 120.0) -> None:
        """Return once all nodes are Ready. Raises RuntimeError with the last words of a kubelet."""
        names = [f"node/{node.name}" for node in self.nodes]
        self._wait_until(lambda: self._succeeds("get", *names), seconds, "the nodes did not register")
        self.kubectl("wait", "--for=condition=Ready", f"--timeout={seconds:.0f}s", *names, timeout_seconds=seconds + 10)

    def _succeeds(self, *arguments: str) -> bool:
        try:
            self.kubectl(*arguments)
        except RuntimeError:
            return False
        return True

    def _wait_until(self, ready: Callable[[], bool], seconds: float, otherwise: str) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{otherwise}; logs: {self.folder}")
            time.sleep(0.25)


@contextlib.contextmanager
def cluster(folder: Path, *, nodes: int = 2) -> Iterator[Cluster]:
    """A cluster without Hub and Kueue while the block runs; its programs end with this process too. Only their logs stay in `folder`."""
    made = start(folder, nodes=nodes, outlive=False, whole=False, say=lambda line: print(line, file=sys.stderr, flush=True))
    try:
        yield made
    finally:
        remove(folder, keep_logs=True)


def start(folder: Path, *, nodes: int = 2, outlive: bool, whole: bool = True, say: Say = print) -> Cluster:
    """Make a cluster in `folder`. `outlive`: it goes on when this process ends. `whole`: with Kueue and a Hub, which not every test wants.

    Raises RuntimeError when something is missing, or a cluster is there already; when it fails half-way, what it made is removed.
    """
    folder = folder.absolute()
    begun = time.monotonic()
    with machine.alone():
        _refuse()
        machine.mark(folder)
        try:
            return _start(folder, nodes, outlive, whole, lambda line: say(f"[{time.monotonic() - begun:5.1f} s] {line}"))
        except BaseException:
            say(f"the cluster did not start; removing what there is of it. Logs: {folder}/processes")
            machine.remove(folder, keep_logs=True)
            raise


def remove(folder: Path, *, keep_logs: bool = False) -> None:
    """Remove the cluster in `folder` and all that any cluster left; nothing happens when there is none."""
    with machine.alone():
        machine.remove(folder, keep_logs=keep_logs)


def _refuse() -> None:
    """Raise RuntimeError when a cluster can't be made here, with what helps. What a crash left is removed."""
    if os.geteuid() != 0:
        raise RuntimeError("a cluster needs root: it makes network name spaces, mounts and control groups")
    if missing := missing_programs():
        raise RuntimeError(f"a node needs {', '.join(missing)}; on Debian: apt-get install --no-install-recommends {DEBIAN_PACKAGES}")
    check_place()
    if closed := unreadable_files():
        raise RuntimeError(
            f"pods' user may not read {len(closed)} files of this checkout, {closed[0]} for one; chmod -R a+rX what holds them"
        )
    folder = machine.existing()
    if folder and Processes(folder / "processes").running():
        raise RuntimeError(f"a test cluster is up already, in {folder}; remove it: python -m tests.testcluster down")
    if folder:
        machine.remove(folder)
    machine.clear()


def _start(folder: Path, nodes: int, outlive: bool, whole: bool, say: Say) -> Cluster:
    """THE STORY of a start, in order of need."""
    programs = binaries(("kubelet", "kube-proxy", "coredns", "kuberay-operator", *(["kueue"] if whole else [])))
    machine.remember(folder)
    say(f"network: {nodes} bridges and one cable")
    network.make_network(nodes)

    say("control plane")
    no_subnets = ExtraFlags(controller_manager=("--allocate-node-cidrs=false",))  # the bridges have theirs
    plane = ControlPlane.create(folder, address=network.HOST_ADDRESS, flags=no_subnets, outlive=outlive)
    plane.start()
    made = Cluster.of(plane, [Node(index=index, folder=folder / f"node-{index}") for index in range(nodes)])

    say("nodes: containerd, images, kubelet")
    images = folder / "images"
    images.mkdir()
    archives = [pause_image(images), trainer_image(images)]
    for node in made.nodes:
        _start_node(plane, node, archives)

    say("service addresses, names, S3" + (", Hub" if whole else ""))
    plane.processes.start("kube-proxy", network.inside(_kube_proxy_command(plane, programs["kube-proxy"])))
    plane.processes.start("coredns", network.inside(dns_command(programs["coredns"], folder, plane.kubeconfig)))
    plane.processes.start("s3", s3_command(folder / "s3"))
    if whole:
        plane.processes.start("hub", hub_command())

    say("KubeRay" + (", Kueue" if whole else ""))
    apply_crds(kubectl_program(), plane.kubeconfig, kuberay_crds())
    plane.processes.start("kuberay-operator", kuberay_command(programs["kuberay-operator"], plane.kubeconfig))
    made.apply(RUNTIME_CLASS)
    if whole:
        start_kueue(plane)

    say("waiting until the nodes are ready")
    made.wait_ready()
    plane.processes.wait_until("s3", s3_is_ready, seconds=60.0)
    for name, port in (("kuberay-operator", HEALTH_PORT), *([("hub", HUB_PORT)] if whole else [])):
        plane.processes.wait_until(name, functools.partial(_listens, port), seconds=60.0)
    say("ready")
    return made


def _start_node(plane: ControlPlane, node: Node, archives: Sequence[ImageArchive] = ()) -> None:
    """containerd, its images, kubelet with the identity of a node."""
    containerd, kubelet = node.programs
    plane.processes.start(containerd, network.inside(containerd_command(node)))
    plane.processes.wait_until(containerd, lambda: containerd_answers(node), seconds=60.0)
    for archive in archives:
        import_image(node.containerd, archive)
    authority = plane.authority
    client = authority.issue(node.name, f"system:node:{node.name}", organizations=["system:nodes"])
    kubeconfig = write_kubeconfig(node.folder / "kubeconfig", server=plane.url, authority=authority, client=client)
    program = binaries(["kubelet"])["kubelet"]
    command = kubelet_command(node, program, kubeconfig=kubeconfig, client_ca=authority.certificate)
    plane.processes.start(kubelet, network.inside(command))
    plane.processes.wait_until(kubelet, functools.partial(_listens, KUBELET_PORT, node.address), seconds=60.0)


def _kube_proxy_command(plane: ControlPlane, program: Path) -> list[str]:
    options = {
        "kubeconfig": plane.user_kubeconfig("system:kube-proxy"),
        "proxy-mode": "nftables",
        # What comes from this machine gets an address of the cluster, so that the answer finds back.
        "cluster-cidr": network.POD_RANGE,
        "hostname-override": "node-0",
        "healthz-bind-address": f"{network.DNS_ADDRESS}:10256",
        "metrics-bind-address": f"{network.DNS_ADDRESS}:10249",
        # The machine's limit on connections is the machine's.
        "conntrack-max-per-core": 0,
        "conntrack-min": 0,
        "conntrack-tcp-timeout-established": "0s",
        "conntrack-tcp-timeout-close-wait": "0s",
    }
    return [str(program), *(f"--{name}={value}" for name, value in options.items())]


def _listens(port: int, address: str = network.HOST_ADDRESS) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def _names(process: int, path: Path) -> bool:
    """Whether a process was started with this path among its arguments."""
    try:
        return str(path) in Path(f"/proc/{process}/cmdline").read_text().split("\0")
    except OSError:
        return False
