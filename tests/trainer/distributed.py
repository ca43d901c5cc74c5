"""Run a function on several ranks of a real gloo process group on loopback, and collect what each returns."""

import gc
import os
import pickle
import socket
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing


def run_distributed(function: Callable[..., Any], world_size: int, *arguments: Any) -> list[Any]:
    """`function(*arguments)` in `world_size` new processes; what each rank returned, in order of rank.

    `function` is a module-level function and its results are picklable. A failure on any rank is raised here with its traceback.
    """
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_rank, args=(world_size, _free_port(), folder, function, arguments), nprocs=world_size, join=True)
        return [pickle.loads((Path(folder) / f"{rank}.pickle").read_bytes()) for rank in range(world_size)]


def _rank(rank: int, world_size: int, port: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    warnings.simplefilter("ignore")  # third-party start-up warnings; ours are tested in process
    os.environ.update(
        {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
        }
    )
    torch.set_num_threads(1)
    gc.freeze()  # DeepSpeed collects garbage for each engine; what is loaded by now is none, and takes half a second to look through
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    try:
        result = function(*arguments)
        (Path(folder) / f"{rank}.pickle").write_bytes(pickle.dumps(result))
        dist.barrier()
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
