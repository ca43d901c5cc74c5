"""finetune_trainer/model/last_layer.py; whether it is right for an architecture is tried by test_trial.py."""

import pytest
import torch
import transformers
from tests.trainer.architectures import gpt_bigcode, llama, packed

from finetune_api.finetunejob import Lora
from finetune_trainer.model.adapters import add_adapters
from finetune_trainer.model.build import from_config, with_dropout
from finetune_trainer.model.inputs import model_inputs
from finetune_trainer.model.last_layer import ways
from finetune_trainer.model.loss import install_loss_head, last_layer
from finetune_trainer.model.method import Method
from finetune_trainer.model.micro_batch import MicroBatch, empty_micro_batch

CPU = torch.device("cpu")
ROW = packed([3, 5, 7, 11], [9, 1], [2, 4, 6], supervised=(True, False, True))


def gradients(config: transformers.PreTrainedConfig, method: Method, *, checkpointing: bool = False) -> tuple[list[torch.Tensor], int]:
    """Of two rows, whose losses are added before the backward; and the tokens that the last layer's network has computed."""
    torch.manual_seed(0)
    model = from_config(with_dropout(config, 0.0), torch.float64)
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    wrapped = install_loss_head(model, method)
    computed: list[int] = []
    last_layer(model).mlp.register_forward_hook(lambda _, given, __: computed.append(given[0].shape[1]))
    model.config.use_cache = False
    loss = wrapped(**model_inputs(ROW, CPU)) + wrapped(**model_inputs(packed([8, 8, 1], [4, 3]), CPU))
    return list(torch.autograd.grad(loss, list(model.parameters()))), sum(computed[:2])


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("config", "parts"),
    [(gpt_bigcode(), ("attn.c_proj", "mlp")), (llama(), ("self_attn.q_proj", "self_attn.o_proj", "mlp"))],
    ids=["gpt_bigcode", "llama"],
)
def test_gradients_are_those_of_all_tokens(config: transformers.PreTrainedConfig, parts: tuple[str, ...], checkpointing: bool) -> None:
    plain, all_tokens = gradients(config, Method())
    assert ways(last_layer(from_config(config, torch.float32)))[0] == parts
    shortened, few_tokens = gradients(config, Method(last_layer=parts), checkpointing=checkpointing)
    for one, other in zip(shortened, plain, strict=True):
        torch.testing.assert_close(one, other)
    assert (all_tokens, few_tokens) == (9 + 5, 5 + 3)


def test_logits_are_of_all_tokens_and_a_row_without_a_supervised_one_is_computed_as_ever() -> None:
    model = from_config(llama(), torch.float32)
    rows = [ROW, packed([3, 5], supervised=(False,))]

    def logits(row: MicroBatch) -> torch.Tensor:
        inputs = model_inputs(row, CPU)
        del inputs["supervised"], inputs["targets"]
        made: torch.Tensor = wrapped(**inputs)
        return made

    wrapped = install_loss_head(model, Method())
    before = [logits(row) for row in rows]
    wrapped = install_loss_head(model, Method(last_layer=("mlp",)))
    wrapped(**model_inputs(ROW, CPU)).backward()
    assert all(torch.equal(logits(row), one) for row, one in zip(rows, before, strict=True))
    assert float(wrapped(**model_inputs(rows[1], CPU)).detach()) == 0.0


@pytest.mark.parametrize("config", [gpt_bigcode(), llama()], ids=["gpt_bigcode", "llama"])
def test_a_row_without_a_supervised_token_calls_the_same_modules_in_the_same_order(config: transformers.PreTrainedConfig) -> None:
    """Back, too, and when activations are recomputed: ZeRO-3 gathers weights so, and a rank whose rows have run out takes part."""
    model = from_config(with_dropout(config, 0.0), torch.float32)
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.config.use_cache = False
    wrapped = install_loss_head(model, Method(last_layer=ways(last_layer(model))[0]))
    called: list[tuple[str, str]] = []

    def ends(name: str, made: torch.Tensor) -> None:
        called.append(("end", name))
        made.register_hook(lambda _: called.append(("back", name)))

    for name, module in model.named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            module.register_forward_pre_hook(lambda *_, name=name: called.append(("begin", name)))
            module.register_forward_hook(lambda _, __, made, name=name: ends(name, made))

    def order(row: MicroBatch) -> list[tuple[str, str]]:
        called.clear()
        wrapped(**model_inputs(row, CPU)).backward()
        return [*called]

    assert order(empty_micro_batch()) == order(ROW)


def test_adapters_inside_the_parts_learn_the_same() -> None:
    def learnt(method: Method) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = from_config(llama(), torch.float64)
        model.config.use_cache = False
        add_adapters(model, Lora(r=2), fresh_rows=[], seed=0)
        for one in model.parameters():
            if one.requires_grad:
                torch.nn.init.normal_(one)  # PEFT begins with zeros, which teach nothing of the other matrix
        loss = install_loss_head(model, method)(**model_inputs(ROW, CPU))
        return list(torch.autograd.grad(loss, [one for one in model.parameters() if one.requires_grad]))

    plain, shortened = learnt(Method()), learnt(Method(last_layer=("self_attn.q_proj", "self_attn.o_proj", "mlp")))
    assert len(plain) == 2 * 7 * 2, "two matrices for each of seven linear maps of two layers"
    for one, other in zip(shortened, plain, strict=True):
        torch.testing.assert_close(one, other)
