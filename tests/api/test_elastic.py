"""finetune_api/elastic.py: what a plan says of workers.minNodes."""

import pytest
from tests.api.jobs import STARCODERBASE
from tests.operator.builders import data_shape, finetunejob

from finetune_api.errors import InvalidSpec
from finetune_api.plan import cluster_plan

WORKERS = {"nodes": 4, "gpusPerNode": 8, "accelerator": "nvidia-a100-80gb"}


def test_the_plan_tells_what_fewer_nodes_come_to() -> None:
    job = finetunejob(workers=WORKERS | {"minNodes": 2}, training={"microBatchSize": 4})
    whole = cluster_plan(job, STARCODERBASE, data_shape())
    (told,) = [note for note in whole.notes if "minNodes" in note]
    assert whole.micro_steps == 2
    assert told.startswith("With 2 of 4 nodes (workers.minNodes) the same steps take 16 workers, 4 micro-steps a step in place of 2, ")
    assert "times as long" in told


def test_what_does_not_fit_on_the_fewest_nodes_is_refused_with_the_numbers() -> None:
    """StarCoder's states, in full, over 32 GPUs of 40 GiB and over 8."""
    workers = WORKERS | {"accelerator": "nvidia-a100-40gb"}
    training = {"microBatchSize": 1, "activationCheckpointing": True}
    cluster_plan(finetunejob(workers=workers, training=training), STARCODERBASE, data_shape())
    with pytest.raises(InvalidSpec, match=r"spec.workers.minNodes: with 1 node, spec.workers: a worker needs .* GiB"):
        cluster_plan(finetunejob(workers=workers | {"minNodes": 1}, training=training), STARCODERBASE, data_shape())
