"""How ranks come together: Ray Train's process group, after a look at what each rank computes on.

NCCL fails on a rank without a GPU before any code of ours runs there, and what it says names neither the node nor a remedy. So the ranks
are asked first. The only file that knows the inside of Ray Train's torch backend (2.60).
"""

import socket
from typing import Any, Literal

from finetune_api.errors import TrainingFailed


def checked_torch_config(backend: Literal["nccl", "gloo"], mailbox: Any) -> Any:
    """A TorchConfig for Ray Train; when a rank that was given a GPU sees none, the mailbox is told, and the workers end."""
    import ray
    from ray.train.torch import TorchConfig
    from ray.train.torch.config import _TorchBackend

    class Backend(_TorchBackend):  # type: ignore[misc]  # Ray has no types
        """Runs in Ray Train's controller."""

        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            if backend == "nccl" and (problem := no_gpu(worker_group.execute(host_without_gpu))):
                ray.get(mailbox.fail.remote(problem.reason, str(problem)))
                raise problem
            super().on_start(worker_group, backend_config)

    class Config(TorchConfig):  # type: ignore[misc]
        @property
        def backend_cls(self) -> type[Backend]:
            return Backend

    return Config(backend=backend)


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
