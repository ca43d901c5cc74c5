"""finetune_trainer/launch/process_group.py"""

import os
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from finetune_trainer.launch.process_group import checked_torch_config, free_port, join_process_group, set_gpu_environment
from finetune_trainer.training.collectives import Ranks
from finetune_trainer.training.surroundings import Position

NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_DUMP_ON_TIMEOUT")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*NAMES, "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_what_the_job_says_of_its_gpus_memory_counts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_gpu_environment()
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert os.environ["TORCH_NCCL_DUMP_ON_TIMEOUT"] == "1"
    monkeypatch.delenv("PYTORCH_ALLOC_CONF")
    monkeypatch.setenv(name, "max_split_size_mb:128")
    set_gpu_environment()
    assert os.environ["PYTORCH_ALLOC_CONF"] == "max_split_size_mb:128"


def test_a_collective_operation_has_its_time_and_words_among_ranks_have_theirs() -> None:
    join_process_group("cpu", Position(rank=0, node=0, worker=0, workers=1), port=free_port(), threads=1, timeout_seconds=77)
    try:
        assert dist.group.WORLD is not None
        assert dist.group.WORLD._get_backend(torch.device("cpu")).options._timeout == timedelta(seconds=77)
        ranks = Ranks()
        assert ranks._group._get_backend(torch.device("cpu")).options._timeout > timedelta(minutes=30)
        assert (ranks.from_first(lambda: "a"), ranks.gathered(1)) == ("a", [1])
    finally:
        dist.destroy_process_group()


def test_rays_group_has_it_too() -> None:
    assert checked_torch_config("gloo", None, timeout_seconds=77).timeout_s == 77
