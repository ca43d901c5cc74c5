"""How ranks come together: a process group, Ray Train's or one that plain processes join, after a look at what each computes on.

NCCL fails on a rank without a GPU before any code of ours runs there, and what it says names neither the node nor a remedy. So the ranks
are asked first. The only file that knows the inside of Ray Train's torch backend (2.60).
"""

import os
import socket
from datetime import timedelta
from typing import Any, Final, Literal

from finetune_api.errors import TrainingFailed
from finetune_trainer.training.surroundings import Position

# Read by torch 2.13 when a process first takes memory of its GPU, and when NCCL starts. What the job's environment says of them counts.
_GPU_ENVIRONMENT: Final = {
    # Memory in pieces that grow: rows of different lengths leave no holes that nothing fits into.
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    # The last collectives of each rank, written down when one of them runs into its time-out: /tmp/nccl_trace_rank_N.
    "TORCH_FR_BUFFER_SIZE": "2000",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
}


def set_gpu_environment() -> None:
    """Settings of a process that will compute on a GPU. Before anything asks torch for memory there."""
    if "PYTORCH_CUDA_ALLOC_CONF" in os.environ:  # its older name
        os.environ.setdefault("PYTORCH_ALLOC_CONF", os.environ["PYTORCH_CUDA_ALLOC_CONF"])
    for name, value in _GPU_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def checked_torch_config(backend: Literal["nccl", "gloo"], mailbox: Any, *, timeout_seconds: int) -> Any:
    """A TorchConfig for Ray Train; when a rank that was given a GPU sees none, the mailbox is told, and the workers end.

    `timeout_seconds`: of a collective operation.
    """
    import ray
    from ray.train.torch import TorchConfig
    from ray.train.torch.config import _TorchBackend

    class Backend(_TorchBackend):  # type: ignore[misc]  # Ray has no types
        """Runs in Ray Train's controller."""

        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            if backend == "nccl":
                worker_group.execute(set_gpu_environment)
            if backend == "nccl" and (problem := no_gpu(worker_group.execute(host_without_gpu))):
                ray.get(mailbox.fail.remote(problem.reason, str(problem)))
                raise problem
            super().on_start(worker_group, backend_config)

    class Config(TorchConfig):  # type: ignore[misc]
        @property
        def backend_cls(self) -> type[Backend]:
            return Backend

    return Config(backend=backend, timeout_s=timeout_seconds)


def host_without_gpu() -> str | None:
    """The name of this host, in a pod the pod's, when torch finds no GPU here."""
    import torch

    return None if torch.cuda.is_available() else socket.gethostname()


def no_gpu(hosts: list[str | None]) -> TrainingFailed | None:
    """The error of hosts whose ranks were given GPUs and see none; None when every rank sees its own.

    >>> print(str(no_gpu(["a", None, "a"]))[:51])
    workers on a were given GPUs and see none; check th
    """
    blind = sorted({host for host in hosts if host})
    if not blind:
        return None
    return TrainingFailed(
        f"workers on {', '.join(blind)} were given GPUs and see none; check the NVIDIA driver and container runtime of these nodes "
        "and the CUDA of the image, or set spec.workers.device: cpu"
    )


def join_process_group(device: Literal["cpu", "gpu"], position: Position, *, port: int, threads: int, timeout_seconds: int) -> None:
    """Make this process a rank of one machine's ranks, with the environment that torchrun and Ray Train give. Collective.

    `port`: where the ranks meet. `threads`: of this rank's computing, unless OMP_NUM_THREADS says otherwise. `timeout_seconds`: of a
    collective operation. Raises TrainingFailed when it was given a GPU and sees none.
    """
    import torch
    import torch.distributed as dist

    if device == "gpu":
        set_gpu_environment()
    if device == "gpu" and (problem := no_gpu([host_without_gpu()])):
        raise problem
    rank, world_size = str(position.rank), str(position.workers)
    os.environ.update({"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size, "NODE_RANK": "0"})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
    dist.init_process_group("nccl" if device == "gpu" else "gloo", timeout=timedelta(seconds=timeout_seconds))


def leave_process_group() -> None:
    """Of a rank that has done what it had to do with the others."""
    import torch.distributed as dist

    dist.destroy_process_group()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def cpu_share(cpus: float, workers: int) -> float:
    """A worker's part of a node's CPUs: whole ones where there are enough, since Ray takes no other number above 1.

    >>> [cpu_share(cpus, 2) for cpus in (8.0, 5.0, 1.0, 0.0)]
    [4.0, 2.0, 0.5, 0.0]
    """
    return cpus // workers or cpus / workers
