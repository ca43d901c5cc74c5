"""The examples: each plans, and the recipe's one holds the recipe's values."""

from pathlib import Path

import pytest

from finetune_api.jobfile import load_job
from finetune_api.plan import plan

EXAMPLES = Path(__file__).parents[2] / "examples"
STARCHAT = EXAMPLES / "starchat-alpha.yaml"


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.yaml")), ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_every_example_plans(path):
    plan(load_job(path), None, None)


def test_starchat_alpha_plans_on_one_node_without_network():
    found = plan(load_job(STARCHAT), None, None)
    assert (found.world_size, found.micro_steps, found.accelerator) == (8, 8, "nvidia-a100-80gb")
    assert found.memory.total_bytes < found.memory.capacity_bytes == 80 * 2**30
    assert found.seconds_per_step > 0


def test_starchat_alpha_has_the_recipes_values():
    spec = load_job(STARCHAT).spec
    training, generation = spec.training, spec.generation
    assert (training.max_sequence_length, training.micro_batch_size, training.global_batch_size, training.epochs) == (1024, 4, 256, 3)
    optimizer = training.optimizer
    assert (optimizer.learning_rate, optimizer.schedule, optimizer.warmup_ratio, optimizer.weight_decay) == (2e-5, "cosine", 0.03, 0.0)
    assert (training.precision, training.tf32, training.dropout, training.activation_checkpointing) == ("bf16", True, 0.1, True)
    assert (training.log_every_steps, training.seed, spec.dataset.processes, spec.evaluation.micro_batch_size) == (8, 42, 12, 4)
    assert (spec.checkpoints.every.steps, spec.checkpoints.keep) == (500, 0)
    assert (generation.temperature, generation.top_k, generation.top_p) == (0.2, 50, 0.95)
    assert (generation.repetition_penalty, generation.min_new_tokens, generation.max_new_tokens) == (1.2, 32, 256)
    zero = training.deepspeed
    assert (zero.overlap_comm, zero.contiguous_gradients, zero.sub_group_size) == (True, True, 10**9)
    assert (zero.stage3_max_live_parameters, zero.stage3_max_reuse_distance) == (10**9, 10**9)
    assert (zero.reduce_bucket_size, zero.stage3_prefetch_bucket_size, zero.stage3_param_persistence_threshold) == (None, None, None)
