"""A Kubernetes control plane without nodes: etcd, API server, controller manager and scheduler, as any user, on one address.

In: a folder for its data, keys and logs. Out: a `ControlPlane` with a kubeconfig, ready to use. Everything is TLS with authorities of
this cluster; only loopback is used unless another address is given (pods of real nodes cannot reach 127.0.0.1 of the host).
What the folder holds is enough for a later Python process: `ControlPlane.load(folder)`.
"""

import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.testcluster.binaries import CONTROL_PLANE, binaries
from tests.testcluster.certificates import Authority, KeyPair, signing_key, write_kubeconfig
from tests.testcluster.processes import Processes, free_ports

SERVICE_RANGE = "10.96.0.0/16"
POD_RANGE = "10.244.0.0/16"
START_SECONDS = 90.0
# Asked to stop, an API server (1.34) waits up to a minute for the watches of its clients; nothing of it is lost with a kill.
_API_SERVER_STOP_SECONDS = 3.0
_FIRST_SERVICE = "10.96.0.1"  # of SERVICE_RANGE: the service `kubernetes` in namespace default
_CONFIG = "control-plane.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtraFlags:
    """Flags added to a program's own; a repeated flag takes the place of ours."""

    api_server: tuple[str, ...] = ()
    controller_manager: tuple[str, ...] = ()
    scheduler: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where each program listens. They do not change while the cluster lives."""

    api_server: int
    etcd: int
    etcd_peer: int
    controller_manager: int
    scheduler: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPlane:
    """A control plane in `folder`. Its servers run as the processes `etcd`, `kube-apiserver`, `kube-controller-manager`, `kube-scheduler`.

    `address` is where the API server listens; the other three listen on loopback only.
    """

    folder: Path
    address: str
    ports: Ports
    flags: ExtraFlags
    outlive: bool

    @classmethod
    def create(cls, folder: Path, *, address: str = "127.0.0.1", flags: ExtraFlags | None = None, outlive: bool = False) -> "ControlPlane":
        """Choose ports and write keys and kubeconfigs; nothing is started. `folder` is new: its data would be another cluster's."""
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / _CONFIG).exists():
            raise ValueError(f"{folder} holds a control plane already; load it, or remove the folder")
        api_server, *others = free_ports(1, address) + free_ports(4)
        ports = Ports(
            **dict(zip(("api_server", "etcd", "etcd_peer", "controller_manager", "scheduler"), (api_server, *others), strict=True))
        )
        plane = cls(folder=folder, address=address, ports=ports, flags=flags or ExtraFlags(), outlive=outlive)
        plane._issue()
        config = {"address": address, "ports": asdict(ports), "flags": asdict(plane.flags), "outlive": outlive}
        (folder / _CONFIG).write_text(json.dumps(config, indent=2))
        return plane

    @classmethod
    def load(cls, folder: Path) -> "ControlPlane":
        """The control plane that `create` made in this folder, running or not."""
        folder = folder.absolute()
        config = json.loads((folder / _CONFIG).read_text())
        flags = ExtraFlags(**{name: tuple(values) for name, values in config["flags"].items()})
        return cls(folder=folder, address=config["address"], ports=Ports(**config["ports"]), flags=flags, outlive=config["outlive"])

    @property
    def url(self) -> str:
        """The API server."""
        return f"https://{self.address}:{self.ports.api_server}"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's (group system:masters)."""
        return self.folder / "admin.kubeconfig"

    @property
    def authority(self) -> Authority:
        """Clients and servers of the cluster, kubelets included."""
        return Authority(folder=self.folder / "keys")

    @property
    def processes(self) -> Processes:
        """Records and logs of the servers; more may be started there (a node's, say): they are stopped before these."""
        return Processes(self.folder / "processes", outlive=self.outlive)

    def start(self) -> None:
        """Start all four and wait until they serve and the namespace `default` can run pods. Raises ProcessFailed with a log's end."""
        programs = binaries(CONTROL_PLANE)
        self.start_etcd()
        self.start_api_server()
        self.processes.start("kube-controller-manager", [programs["kube-controller-manager"], *self._controller_manager_flags()])
        self.processes.start("kube-scheduler", [programs["kube-scheduler"], *self._scheduler_flags()])
        self._wait("kube-controller-manager", f"https://127.0.0.1:{self.ports.controller_manager}/healthz")
        self._wait("kube-scheduler", f"https://127.0.0.1:{self.ports.scheduler}/healthz")
        # Made by the controller manager; the API server refuses a pod without it.
        self._wait("kube-controller-manager", f"{self.url}/api/v1/namespaces/default/serviceaccounts/default")

    def start_etcd(self) -> None:
        """Start it with what it had, and wait until it listens."""
        self.processes.start("etcd", [binaries(["etcd"])["etcd"], *self._etcd_flags()])
        self.processes.wait_until("etcd", self._etcd_listens, seconds=START_SECONDS)

    def start_api_server(self) -> None:
        """Start it on its port and wait until it is ready."""
        command: list[str | Path] = [binaries(["kube-apiserver"])["kube-apiserver"], *self._api_server_flags()]
        self.processes.start("kube-apiserver", command, stop_seconds=_API_SERVER_STOP_SECONDS)
        self._wait("kube-apiserver", f"{self.url}/readyz")

    def stop_api_server(self) -> None:
        """End it; etcd keeps what it served, the other servers wait for it."""
        self.processes.stop("kube-apiserver")

    def restart_api_server(self) -> None:
        """Stop and start: clients see refused connections for a few seconds and then the same objects."""
        self.stop_api_server()
        self.start_api_server()

    def stop(self) -> None:
        """Stop every process of the folder, the last started first."""
        self.processes.stop_all()

    def user_kubeconfig(self, name: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig with a client certificate of this user; it may do what RBAC grants to the user and the groups."""
        file_name = name.replace(":", "-").replace("/", "-")
        pair = self.authority.issue(f"user-{file_name}", name, organizations=groups)
        return write_kubeconfig(self.folder / f"users/{file_name}.kubeconfig", server=self.url, authority=self.authority, client=pair)

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig with an hour's token of an existing service account."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
        token = json.loads(self._call(f"{self.url}{path}", request))["status"]["token"]
        file = self.folder / f"users/{namespace}-{name}.kubeconfig"
        return write_kubeconfig(file, server=self.url, authority=self.authority, token=token)

    def kubectl(self, *arguments: str | Path, kubeconfig: Path | None = None) -> str:
        """What kubectl prints, as the administrator or with another kubeconfig. Raises RuntimeError with its complaint."""
        program = shutil.which("kubectl", path=Path(sys.executable).parent) or "kubectl"
        command = [program, f"--kubeconfig={kubeconfig or self.kubeconfig}", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"kubectl {' '.join(map(str, arguments))}: {done.stderr.strip()}")
        return done.stdout

    def _issue(self) -> None:
        """Authorities (one of its own for etcd, which no user of the cluster may read), certificates, kubeconfigs."""
        authority = Authority.create(self.folder / "keys", "test-cluster")
        names = [f"kubernetes{suffix}" for suffix in ("", ".default", ".default.svc", ".default.svc.cluster.local")]
        authority.issue("api-server", "kube-apiserver", hosts=[*names, "localhost", "127.0.0.1", _FIRST_SERVICE, self.address])
        authority.issue("local-server", "local-server", hosts=["localhost", "127.0.0.1"])
        # The API server's own requests to kubelets (logs, exec).
        authority.issue("api-server-to-kubelet", "kube-apiserver-kubelet-client", organizations=["system:masters"])
        signing_key(authority.folder / "service-accounts.key")
        Authority.create(self.folder / "keys/etcd", "test-cluster-etcd").issue("etcd", "etcd", hosts=["localhost", "127.0.0.1"])
        for name, user, groups in (
            ("admin", "admin", ["system:masters"]),
            ("controller-manager", "system:kube-controller-manager", []),
            ("scheduler", "system:kube-scheduler", []),
        ):
            pair = authority.issue(name, user, organizations=groups)
            write_kubeconfig(self.folder / f"{name}.kubeconfig", server=self.url, authority=authority, client=pair)

    def _etcd_flags(self) -> list[str]:
        client, peer = (f"https://127.0.0.1:{port}" for port in (self.ports.etcd, self.ports.etcd_peer))
        pair, authority = self._etcd_pair(), self.folder / "keys/etcd/ca.crt"
        flags = {
            "name": "test", "data-dir": self.folder / "etcd", "unsafe-no-fsync": "true", "logger": "zap", "log-level": "warn",
            "listen-client-urls": client, "advertise-client-urls": client,
            "listen-peer-urls": peer, "initial-advertise-peer-urls": peer, "initial-cluster": f"test={peer}",
            "cert-file": pair.certificate, "key-file": pair.key, "trusted-ca-file": authority, "client-cert-auth": "true",
            "peer-cert-file": pair.certificate, "peer-key-file": pair.key, "peer-trusted-ca-file": authority,
            "peer-client-cert-auth": "true",
        }  # fmt: skip
        return _flags(flags)

    def _api_server_flags(self) -> list[str]:
        keys = self.authority.folder
        flags = {
            "etcd-servers": f"https://127.0.0.1:{self.ports.etcd}", "etcd-cafile": keys / "etcd/ca.crt",
            "etcd-certfile": self._etcd_pair().certificate, "etcd-keyfile": self._etcd_pair().key,
            "bind-address": self.address, "advertise-address": self.address, "secure-port": self.ports.api_server,
            "tls-cert-file": keys / "api-server.crt", "tls-private-key-file": keys / "api-server.key", "client-ca-file": keys / "ca.crt",
            "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
            "service-account-key-file": keys / "service-accounts.key", "service-account-signing-key-file": keys / "service-accounts.key",
            "authorization-mode": "Node,RBAC", "enable-admission-plugins": "NodeRestriction", "service-cluster-ip-range": SERVICE_RANGE,
            "kubelet-preferred-address-types": "InternalIP",
            "kubelet-client-certificate": keys / "api-server-to-kubelet.crt", "kubelet-client-key": keys / "api-server-to-kubelet.key",
            # The service `kubernetes` leads to the advertised address, which must not be loopback.
            "endpoint-reconciler-type": "none" if self.address.startswith("127.") else "lease",
        }  # fmt: skip
        return [*_flags(flags), *self.flags.api_server]

    def _controller_manager_flags(self) -> list[str]:
        keys = self.authority.folder
        flags = {
            "root-ca-file": keys / "ca.crt", "service-account-private-key-file": keys / "service-accounts.key",
            "cluster-signing-cert-file": keys / "ca.crt", "cluster-signing-key-file": keys / "ca.key",
            "use-service-account-credentials": "true", "service-cluster-ip-range": SERVICE_RANGE,
            "allocate-node-cidrs": "true", "cluster-cidr": POD_RANGE,
        }  # fmt: skip
        return [*self._serving_flags("controller-manager", self.ports.controller_manager), *_flags(flags), *self.flags.controller_manager]

    def _scheduler_flags(self) -> list[str]:
        return [*self._serving_flags("scheduler", self.ports.scheduler), *self.flags.scheduler]

    def _serving_flags(self, name: str, port: int) -> list[str]:
        """What controller manager and scheduler share: their own API on loopback, and whom it lets in."""
        keys, kubeconfig = self.authority.folder, self.folder / f"{name}.kubeconfig"
        flags = {
            "kubeconfig": kubeconfig, "authentication-kubeconfig": kubeconfig, "authorization-kubeconfig": kubeconfig,
            "client-ca-file": keys / "ca.crt", "authentication-skip-lookup": "true", "bind-address": "127.0.0.1", "secure-port": port,
            "leader-elect": "false",
            "tls-cert-file": keys / "local-server.crt", "tls-private-key-file": keys / "local-server.key",
        }  # fmt: skip
        return _flags(flags)

    def _etcd_pair(self) -> KeyPair:
        return KeyPair(certificate=self.folder / "keys/etcd/etcd.crt", key=self.folder / "keys/etcd/etcd.key")

    def _etcd_listens(self) -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", self.ports.etcd)) == 0

    def _wait(self, name: str, url: str) -> None:
        def answers() -> bool:
            try:
                self._call(url)
            except OSError:  # refused, reset, or an HTTP error (which is one): not yet
                return False
            return True

        self.processes.wait_until(name, answers, seconds=START_SECONDS)

    def _call(self, url: str, body: dict[str, Any] | None = None) -> bytes:
        """GET, or POST of `body`, as the administrator."""
        trust = ssl.create_default_context(cafile=self.authority.certificate)
        trust.load_cert_chain(self.authority.folder / "admin.crt", self.authority.folder / "admin.key")
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust))
        try:
            with opener.open(request, timeout=10) as reply:
                return bytes(reply.read())
        except urllib.error.HTTPError as error:
            error.close()
            raise


@contextlib.contextmanager
def control_plane(folder: Path, *, address: str = "127.0.0.1", flags: ExtraFlags | None = None) -> Iterator[ControlPlane]:
    """A running control plane in a new folder, stopped with the block and, whatever happens, with this Python process."""
    plane = ControlPlane.create(folder, address=address, flags=flags)
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()


def _flags(flags: dict[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in flags.items()]
