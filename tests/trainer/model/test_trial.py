"""finetune_trainer/model/trial.py: every kind of architecture, its loss and gradients against eager attention, one dialogue at a time."""

import copy
from typing import Any

import pytest
import torch
import transformers
from tests.trainer.architectures import gpt_bigcode, llama, packed
from tests.trainer.families import PACKED, SIZES, UNPACKED, WINDOW
from torch.nn.functional import cross_entropy

from finetune_api.errors import InvalidModel
from finetune_api.training_run import SplitShape
from finetune_trainer.model.build import from_config, with_dropout
from finetune_trainer.model.inputs import model_inputs
from finetune_trainer.model.loss import LossModel, install_loss_head
from finetune_trainer.model.method import Method, cost_of
from finetune_trainer.model.micro_batch import single_dialogues
from finetune_trainer.model.trial import method_for

# Longer than windows and original lengths, a short one after a long one, one without anything to learn.
DIALOGUES = ([3, 5, 7, 11, 2, 4, 6, 8, 10, 12, 14, 16, 13], [9], [2, 4, 6], [33, 40, 60, 21, 9, 10, 11])
ROW = packed(*DIALOGUES, supervised=(True, True, False, True))

# Each a kind that another one here has too, or slow: with `make thorough`.
DEAREST = {
    "learned sinks (Granite SWA)",
    "a router's correction, a buffer that is saved, and other head widths for values (DeepSeek-V3)",
    "a router's correction (MiniMax-M2)",
    "frozen parameters (ERNIE 4.5 MoE)",
    "state space and attention (Jamba)",
    "biases by position (Bloom)",
}

Outcome = tuple[float, dict[str, torch.Tensor]]


def families(named: dict[str, Any]) -> list[Any]:
    """A parameter for each; the dearest ones marked."""
    return [pytest.param(name, marks=pytest.mark.thorough if name in DEAREST else ()) for name in named]


def weights_of(config: Any) -> dict[str, torch.Tensor]:
    """Random weights, larger than at initialisation so that no effect hides; buffers too, as real checkpoints have them."""
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation="eager")
    saved = model.state_dict(keep_vars=True)
    with torch.no_grad():
        for tensor in saved.values():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.randn_like(tensor))
    return {name: tensor.detach() for name, tensor in saved.items()}


def outcome(model: Any, loss: torch.Tensor) -> Outcome:
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return float(loss.detach()), {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named.items(), gradients, strict=True)}


def alone(config: Any, weights: dict[str, torch.Tensor]) -> Outcome:
    """Plain Transformers: each dialogue in a model of its own, so that nothing can be left over from the one before."""
    whole: Outcome | None = None
    for dialogue in single_dialogues(ROW):
        model: Any = transformers.AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation="eager").eval()
        model.load_state_dict(weights)
        logits = model(torch.tensor(dialogue.input_ids)[None], use_cache=False).logits[0]
        loss, gradients = outcome(model, cross_entropy(logits, torch.tensor(dialogue.labels), reduction="sum"))
        whole = (whole[0] + loss, {n: whole[1][n] + g for n, g in gradients.items()}) if whole else (loss, gradients)
    assert whole is not None
    return whole


def ours(config: Any, weights: dict[str, torch.Tensor], method: Method) -> Outcome:
    """The training core's own loss, in training mode, with activation checkpointing."""
    config.use_cache = False
    model = from_config(copy.deepcopy(config), torch.float32, method.attention)
    model.load_state_dict(weights)
    if model.supports_gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    wrapped = install_loss_head(model, method).train()
    calls = [ROW] if method.packed else single_dialogues(ROW)
    return outcome(model, sum((call_of(wrapped, call) for call in calls), torch.zeros(())))


def call_of(wrapped: LossModel, call: Any) -> torch.Tensor:
    loss: torch.Tensor = wrapped(**model_inputs(call, torch.device("cpu")))
    return loss


def apart(got: Outcome, expected: Outcome) -> float:
    """The largest difference, relative to what differs; gradients that are nearly nothing count against all of them."""
    whole = float(torch.stack([one.norm() for one in expected[1].values()]).norm())
    parts = [float((got[1][name] - one).norm()) / (float(one.norm()) + 1e-3 * whole) for name, one in expected[1].items()]
    return max(*parts, abs(got[0] - expected[0]) / abs(expected[0]))


def check(config: Any, method: Method) -> None:
    config = with_dropout(config, 0.0)
    weights = weights_of(config)
    assert apart(ours(config, weights, method), alone(config, weights)) < 2e-4


@pytest.mark.parametrize("name", families(PACKED))
def test_a_family_is_packed_with_the_loss_and_gradients_of_eager_attention(name: str) -> None:
    method = method_for(PACKED[name], longest=60)
    assert method.packed
    assert method.logits is not None, "its head is done in chunks"
    check(PACKED[name], method)


@pytest.mark.parametrize("name", families(UNPACKED))
def test_a_family_that_can_not_be_packed_is_computed_one_dialogue_a_call(name: str) -> None:
    method = method_for(UNPACKED[name], longest=60)
    assert not method.packed
    assert method.why_unpacked
    check(UNPACKED[name], method)


def test_layers_after_the_second_are_tried() -> None:
    """A hybrid whose first layers are attention: its dialogues would leak through the layers behind them."""
    method = method_for(UNPACKED["state space after attention (Granite 4 hybrid)"])
    assert "see one another" in method.why_unpacked


def test_routers_draw_no_random_numbers_in_training() -> None:
    for name in ("router jitter (Mixtral)", "router jitter (Phi-3.5-MoE)"):
        wrapped = install_loss_head(from_config(PACKED[name], torch.float32)).train()
        first, second = (float(call_of(wrapped, ROW).detach()) for _ in range(2))
        assert first == second


def test_an_unknown_argument_of_attention_is_never_ignored() -> None:
    """MiniMax-M3's sparse layers give `block_indices`."""
    sparse = transformers.MiniMaxM3VLTextConfig(
        **{**SIZES, "num_hidden_layers": 3},
        head_dim=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        architectures=["MiniMaxM3VLForCausalLM"],
    )
    sparse.layer_types = ["full_attention", "full_attention", "minimax_m3_sparse"]
    assert not method_for(sparse).packed


def test_attention_to_later_tokens_is_refused() -> None:
    config = transformers.Gemma3TextConfig(
        **SIZES, head_dim=16, use_bidirectional_attention=True, architectures=["Gemma3ForCausalLM"], **WINDOW
    )
    with pytest.raises(InvalidModel, match=r"Gemma3ForCausalLM lets a token see later ones: it is no causal language model"):
        method_for(config)


def test_no_activation_checkpointing_is_told_before_training() -> None:
    config = transformers.CTRLConfig(vocab_size=61, n_embd=64, n_head=4, n_layer=2, dff=48, architectures=["CTRLLMHeadModel"])
    with pytest.raises(
        InvalidModel, match=r"CTRLLMHeadModel has no activation checkpointing: set spec.training.activationCheckpointing: false"
    ):
        method_for(config)
    method = method_for(config, checkpointing=False)
    check(config, method)


def test_positions_that_are_not_taken_are_the_reason() -> None:
    method = method_for(UNPACKED["takes no positions (Bart)"])
    assert method.why_unpacked.startswith("takes no positions")


def test_a_scale_of_queries_by_the_place_in_the_row_is_seen_where_rows_are_long_enough() -> None:
    """Llama 4 scales queries by their place in the row, from `floor_scale` tokens on."""
    config = PACKED["chunked attention (Llama 4)"]
    assert config.floor_scale == 8192
    assert method_for(config, longest=8192).packed is False
    assert method_for(config, longest=8191).packed


def test_what_a_method_costs_is_told() -> None:
    data = SplitShape(dialogues=90, segments=100, tokens=9000, supervised_tokens=4000, rows=20, squared_lengths=900000)
    assert cost_of(Method(), data) is None
    told = cost_of(Method(packed=False, why_unpacked="lets dialogues of a packed row see one another"), data)
    assert told is not None
    assert "100 calls an epoch where 20 packed rows would do" in told
    assert "held at once" in (cost_of(Method(logits=None), data) or "")


@pytest.mark.parametrize(
    ("config", "last_layer"),
    [
        pytest.param(gpt_bigcode(), ("attn.c_proj", "mlp"), id="mqa"),
        pytest.param(gpt_bigcode(multi_query=False), ("attn.c_proj", "mlp"), id="mha"),
        pytest.param(llama(), ("self_attn.q_proj", "self_attn.o_proj", "mlp"), id="gqa"),
    ],
)
def test_the_usual_families_are_packed(config: Any, last_layer: tuple[str, ...]) -> None:
    assert method_for(config) == Method(last_layer=last_layer)
