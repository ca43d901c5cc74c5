from dataclasses import replace

import pytest
from tests.api.jobs import STARCODERBASE

from finetune_api.finetunejob import ZeroOptimization
from finetune_api.load import Load, adapter_parameters, layer_weights
from finetune_api.memory import GIB, memory, sizes

PARAMETERS = STARCODERBASE.parameters
NODE = Load(shape=STARCODERBASE, zero=ZeroOptimization(), device="gpu", precision="bf16", world_size=8, tokens=4096, checkpointing=True)


def term(load, name):
    (found,) = [found for found in memory(load, None).terms if found.name.startswith(name)]
    return found.bytes


def states(load):
    return sum(found.bytes for found in memory(load, None).terms if found.phase == "always" and found.basis == "counted")


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
        ("logits", 6 * 2**24),
        ("head's gradient", 6 * 49152 * 6144),
        ("optimizer's update", 8 * 10**9),
        ("communication", 2 * (2 * 6144**2 + 49152 * 6144)),
    ],
)
def test_terms_of_starcoder_on_one_node(name, bytes_):
    assert term(NODE, name) == bytes_


@pytest.mark.parametrize(("precision", "whole", "shared"), [("bf16", 2, 16), ("fp32", 4, 16)])
def test_zero2_keeps_weights_whole_and_a_master_besides(precision, whole, shared):
    load = replace(NODE, stage=2, precision=precision)
    assert states(load) == whole * PARAMETERS + shared * PARAMETERS // 8
    assert not any(found.name.startswith("gathered") for found in memory(load, None).terms)


def test_one_worker_alone_sends_nothing_and_updates_in_place():
    names = {found.name for found in memory(replace(NODE, world_size=1), None).terms}
    assert not names & {"gathered layers", "gathered embedding and head", "communication buckets", "optimizer's update"}


def test_a_frozen_base_has_no_gradients_and_no_moments():
    adapters = adapter_parameters(STARCODERBASE, 8)
    lora = replace(NODE, method="lora", adapters=adapters)
    assert states(lora) == 2 * PARAMETERS // 8 + 18 * adapters // 8
    assert "head's gradient" not in {found.name for found in memory(lora, None).terms}


def test_four_bits_are_of_layers_alone():
    """Embeddings and norms stay as they are."""
    alone = replace(NODE, method="qlora", adapters=adapter_parameters(STARCODERBASE, 8), world_size=1)
    quantised = 40 * layer_weights(STARCODERBASE)
    assert term(alone, "frozen weights in 4 bits") == pytest.approx(quantised * 4.127 / 8, rel=1e-3)
    assert memory(alone, None).terms[0].bytes == 2 * (PARAMETERS - quantised)
    assert term(alone, "a matrix made of 4 bits") == pytest.approx(6144 * 24576 * (2 + 4 / 64))
    assert not any("4 bits" in found.name for found in memory(replace(alone, method="lora"), None).terms)


def test_experts_that_share_a_tensor_are_not_in_four_bits():
    shape = STARCODERBASE.model_copy(update={"active_parameters": PARAMETERS // 2})
    experts = replace(NODE, shape=shape, method="qlora", world_size=1)
    assert experts.quantised == 40 * (6144 * (6144 + 2 * 128) + 6144**2)


def test_moments_in_eight_bits_take_a_quarter():
    alone = replace(NODE, world_size=1)
    assert term(replace(alone, moments_in_8_bits=True), "Adam moments") == pytest.approx(term(alone, "Adam moments") * (2 + 1 / 32) / 8)


def test_what_is_offloaded_is_not_on_the_gpu():
    optimizer = replace(NODE, offloads_optimizer=True)
    assert states(optimizer) == 2 * PARAMETERS // 8
    assert states(replace(optimizer, offloads_parameters=True)) == 0
    assert states(replace(NODE, device="cpu", offloads_optimizer=True)) == states(NODE)


def test_earlier_runs_correct_what_is_assumed():
    cpu = replace(NODE, device="cpu")
    explained = sum(sizes(found for found in memory(cpu, None).terms if found.basis != "assumed"))
    assert memory(cpu, None, beside_bytes=GIB, footprint_bytes=3 * GIB).total_bytes == explained + 4 * GIB
    # What torch counts of a GPU leaves out the allocator's gaps: these are still assumed.
    explained = sum(sizes(found for found in memory(NODE, None).terms if found.basis != "assumed"))
    gaps = int((explained + GIB) * 0.08)
    assert memory(NODE, None, beside_bytes=GIB).total_bytes == explained + GIB + gaps + 2 * GIB


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


def test_a_layer_that_recomputes_keeps_its_input():
    """One in three: 14 of 40."""
    some, every = replace(NODE, recompute_every=3), replace(NODE, checkpointing=False)
    assert some.recomputed == 14
    assert term(some, "activations") == term(NODE, "activations") * 14 // 40 + term(every, "activations") * 26 // 40


def test_without_checkpointing_every_layer_keeps_its_activations():
    assert term(replace(NODE, checkpointing=False), "activations") == 40 * 34 * 4096 * 6144


def test_logits_do_not_grow_with_the_batch():
    """Nor do they lie beside a layer's working set, which comes after the loss: the head's gradient is in the arithmetic's type by then."""
    assert term(NODE, "logits") == 6 * 2**24 == term(replace(NODE, tokens=450), "logits")
    large = replace(NODE, tokens=16_384)
    assert not any(found.name.startswith("logits") for found in memory(large, None).terms)
    assert term(large, "a layer's working set") == 16_384 * (32 * 6144 + 3 * 24_576)
    assert term(large, "head's gradient") == 2 * 49152 * 6144


def test_a_head_of_its_own_is_done_before_the_layers():
    """Its gradient doesn't wait for the embedding's."""
    apart = STARCODERBASE.model_copy(update={"parameters": PARAMETERS + 49152 * 6144})
    names = {found.name for found in memory(replace(NODE, tokens=16_384, shape=apart), None).terms}
    assert "a layer's working set" in names
    assert "head's gradient" not in names


def test_zero3_keeps_what_the_backward_pass_soon_needs_again():
    """Within half of the distance of reuse: of a small model all, and nothing twice."""
    small = STARCODERBASE.model_copy(update={"layers": 8, "parameters": 10**9})
    assert term(replace(NODE, shape=small), "gathered layers") == 2 * 5 * 10**8
    tiny = STARCODERBASE.model_copy(update={"layers": 1, "parameters": 4 * 10**8})
    gathered = ("gathered layers", "gathered embedding")
    assert sum(term(replace(NODE, shape=tiny), name) for name in gathered) == 2 * 4 * 10**8
    near = replace(NODE, shape=small, zero=ZeroOptimization(stage3_max_reuse_distance=1, stage3_prefetch_bucket_size=0))
    assert term(near, "gathered layers") == 2 * 2 * ((10**9 - 49152 * 6144) // 8)


def test_a_layer_that_kept_all_adds_its_gradients_alone():
    kept = replace(NODE, tokens=16_384, checkpointing=False, method="lora", adapters=10**6)
    assert term(kept, "a layer's working set") == 16_384 * 3 * 24_576


def test_a_gated_feed_forward_and_norms_in_steps_keep_more():
    gated = replace(NODE, shape=STARCODERBASE.model_copy(update={"architecture": "LlamaForCausalLM"}), checkpointing=False)
    wide = 18 * 6144 + 8 * 24576
    assert term(gated, "activations") == 40 * 4096 * (wide + 8 * 6144)
    lora = {"method": "lora", "adapters": 10**6}
    assert term(replace(gated, **lora), "activations") == 40 * 4096 * (wide + 4 * 6144)
    assert term(replace(gated, precision="fp32", **lora), "activations") == 40 * 4096 * 2 * wide
    assert term(replace(gated, precision="fp32"), "activations") == 40 * 4096 * (2 * wide + 8 * 6144)


def test_settings_of_deepspeed_count():
    zero = ZeroOptimization(sub_group_size=10**8, stage3_max_live_parameters=10**6, reduce_bucket_size=1000, overlap_comm=False)
    small = replace(NODE, zero=zero)
    assert (term(small, "optimizer's"), term(small, "gathered layers"), term(small, "communication")) == (
        8 * 10**8,
        2 * 6144 * 24576,
        2 * (1000 + 49152 * 6144),
    )


def test_every_term_is_explained():
    assert all(found.formula and found.basis for found in memory(NODE, None).terms)
