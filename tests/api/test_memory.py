from dataclasses import replace

import pytest
from tests.api.jobs import STARCODERBASE

from finetune_api.finetunejob import ZeroOptimization
from finetune_api.memory import GIB, Load, memory

PARAMETERS = STARCODERBASE.parameters
NODE = Load(shape=STARCODERBASE, zero=ZeroOptimization(), device="gpu", precision="bf16", world_size=8, tokens=4096, checkpointing=True)


def term(load, name):
    (found,) = [found for found in memory(load, None).terms if found.name.startswith(name)]
    return found.bytes


def states(load):
    return sum(found.bytes for found in memory(load, None).terms if "partitioned" in found.name)


@pytest.mark.parametrize(("precision", "each"), [("bf16", 18), ("fp32", 16)])
@pytest.mark.parametrize("world_size", [1, 8, 16])
def test_states_are_so_many_bytes_a_parameter_shared_out(precision, each, world_size):
    assert states(replace(NODE, precision=precision, world_size=world_size)) == each * -(-PARAMETERS // world_size)


def test_in_fp32_the_master_is_the_weights_own_partition():
    names = [found.name for found in memory(replace(NODE, precision="fp32"), None).terms]
    assert not any(name.startswith("master") for name in names)
    assert term(replace(NODE, precision="fp32"), "weights") == 4 * PARAMETERS // 8


@pytest.mark.parametrize(
    ("name", "bytes_"),
    [
        ("weights", 2 * PARAMETERS // 8),
        ("Adam", 8 * PARAMETERS // 8),
        ("gathered embedding", 2 * 49152 * 6144),
        ("activations", 2 * 40 * 4096 * 6144),
        ("a layer's working set", 34 * 4096 * 6144),
        ("head's gradient", 6 * 49152 * 6144),
        ("logits", 6 * 2**24),
        ("optimizer's update", 8 * 10**9),
        ("communication", 2 * 2 * 6144**2),
    ],
)
def test_terms_of_starcoder_on_one_node(name, bytes_):
    assert term(NODE, name) == bytes_


def test_the_published_node_has_room():
    """At 8 k tokens a worker, independent arithmetic gives 40 to 44 GiB, without the runtime and the allocator's gaps."""
    found = memory(replace(NODE, tokens=8192), None)
    allowed = sum(one.bytes for one in found.terms if one.basis == "assumed")
    assert 40 * GIB < found.total_bytes - allowed < 44 * GIB


def test_forty_gib_cards_need_sixteen():
    capacity = 40_960 * 2**20
    assert memory(NODE, capacity).total_bytes > capacity
    assert memory(replace(NODE, world_size=16), capacity).total_bytes < capacity


def test_the_total_counts_the_larger_phase_only():
    found = memory(NODE, None)
    size = {phase: sum(t.bytes for t in found.terms if t.phase == phase) for phase in ("always", "pass", "update")}
    assert found.total_bytes == size["always"] + max(size["pass"], size["update"]) < sum(size.values())


def test_without_checkpointing_every_layer_keeps_its_activations():
    assert term(replace(NODE, checkpointing=False), "activations") == 40 * 34 * 4096 * 6144


def test_logits_do_not_grow_with_the_batch():
    assert term(replace(NODE, tokens=64 * 4096), "logits") == term(NODE, "logits")


def test_a_gated_feed_forward_keeps_more():
    gated = replace(NODE, shape=STARCODERBASE.model_copy(update={"architecture": "LlamaForCausalLM"}))
    assert term(gated, "a layer's working set") == 4096 * (18 * 6144 + 8 * 24576)


def test_settings_of_deepspeed_count():
    zero = ZeroOptimization(sub_group_size=10**8, stage3_max_live_parameters=10**6, reduce_bucket_size=1000, overlap_comm=False)
    small = replace(NODE, zero=zero)
    assert (term(small, "optimizer's"), term(small, "gathered layers"), term(small, "communication")) == (8 * 10**8, 2 * 10**6, 2 * 1000)


def test_every_term_is_explained():
    assert all(found.formula and found.basis for found in memory(NODE, None).terms)
