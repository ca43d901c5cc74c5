"""finetune_trainer/training/rank.py, where no worker is needed to try it; tests/cli/test_run.py trains."""

import pytest

from finetune_api.errors import TrainingFailed
from finetune_trainer.training.rank import check_order


def test_ranks_of_a_node_that_follow_one_another() -> None:
    for node in range(2):
        for worker in range(4):
            check_order(4 * node + worker, node=node, worker=worker, workers=4)


def test_ray_numbered_otherwise_is_told_and_explained() -> None:
    """Nodes of 4 and 2 workers: the second node's first rank is 4, where it computes 2."""
    with pytest.raises(TrainingFailed, match=r"worker 0 of 2 on node 1 rank 4 and not 2: .*gpusPerNode GPUs .*, then start the run again"):
        check_order(4, node=1, worker=0, workers=2)
