"""What each rank of benchmarks/checkpoints.py does: trains with one side's checkpoints, restores, or begins again. Prints one JSON object.

    python -m benchmarks.checkpoints_ranks '{"act": "train", "side": "ours", ...}'

That process starts the ranks and reports what rank 0 says.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.checkpoints_restores import restart, restore
from benchmarks.checkpoints_steps import train
from benchmarks.checkpoints_throughput import throughput

ACTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "train": train,
    "restore": restore,
    "restart": restart,
    "throughput": throughput,
}


def main() -> None:
    settings = json.loads(sys.argv[1])
    if "rank" in settings:
        _rank(settings)
        return
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        commands = [
            [
                sys.executable,
                "-m",
                "benchmarks.checkpoints_ranks",
                json.dumps({**settings, "rank": rank, "port": port, "result": str(result)}),
            ]
            for rank in range(settings["world"])
        ]
        ranks = [subprocess.Popen(command, stdout=sys.stderr, env=os.environ | {"LAUNCHED": str(time.time())}) for command in commands]
        codes = [rank.wait() for rank in ranks]
        if any(codes):
            sys.exit(f"ranks ended with {codes}")
        print(result.read_text())


def _rank(settings: dict[str, Any]) -> None:
    import torch
    import torch.distributed as dist

    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    rank, world = settings["rank"], settings["world"]
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(settings["port"]), "GLOO_SOCKET_IFNAME": "lo"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    found = ACTS[settings["act"]](settings)
    if rank == 0:
        Path(settings["result"]).write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()
    os._exit(0)  # nobody's threads are waited for


def _end_with(parent: int) -> None:
    """Leave no rank behind when whoever measures was ended."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main()
