"""finetune_trainer/model/build.py"""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.trainer.architectures import VOCABULARY, gpt_bigcode, llama, packed, save_random
from tests.trainer.families import PACKED

from finetune_api.errors import InvalidModel
from finetune_trainer.model.attention import boundary_arguments
from finetune_trainer.model.build import build_model, with_dropout

CONFIGS = {"gpt_bigcode": gpt_bigcode(), "llama": llama()}


@pytest.fixture(params=["gpt_bigcode", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return save_random(CONFIGS[request.param], tmp_path / request.param)


def build(folder: Path, **changes: Any) -> Any:
    settings = {"initialization": "pretrained", "seed": 0, "dropout": 0.0, "vocabulary_size": 0, "dtype": torch.float32, **changes}
    return build_model(folder, **settings)


def logits(model: Any) -> torch.Tensor:
    row = packed([1, 5, 9, 20], [3, 2, 60])
    inputs = {"input_ids": torch.tensor(row.input_ids)[None], "position_ids": torch.tensor(row.position_ids)[None]}
    with torch.no_grad():
        return model.eval()(**inputs, use_cache=False, **boundary_arguments(row, torch.device("cpu"))).logits[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_and_buffers_are_those_of_from_pretrained(folder: Path, dtype: torch.dtype) -> None:
    model = build(folder, dtype=dtype)
    plain: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    expected = {**dict(plain.named_parameters()), **dict(plain.named_buffers())}
    got = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) and got[name].dtype == expected[name].dtype for name in got)


@pytest.mark.parametrize("initialization", ["pretrained", "random"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rank_that_does_not_read_has_the_same_shapes_and_buffers(folder: Path, initialization: str, dtype: torch.dtype) -> None:
    settings = {"initialization": initialization, "vocabulary_size": VOCABULARY + 3, "dtype": dtype}
    reads, waits = build(folder, **settings), build(folder, **settings, reads=False)
    described = [[(name, p.shape, p.dtype) for name, p in model.named_parameters()] for model in (reads, waits)]
    assert described[0] == described[1]
    assert all(parameter.is_meta for parameter in waits.parameters())
    assert (waits.lm_head.weight is waits.get_input_embeddings().weight) == (reads.lm_head.weight is reads.get_input_embeddings().weight)
    buffers = dict(waits.named_buffers())
    for name, buffer in reads.named_buffers():
        assert torch.equal(buffers[name], buffer)
        assert buffers[name].dtype == buffer.dtype


@pytest.mark.parametrize("family", ["learned sinks and a window (GPT-OSS)", "output viewed (AfMoE)"])
def test_what_a_family_keeps_in_fp32_is_so_on_every_rank(family: str, tmp_path: Path) -> None:
    """Norms, where a model is read in fp16: who reads would otherwise send them to ranks that have room for half of the bytes."""
    transformers.AutoModelForCausalLM.from_config(PACKED[family]).save_pretrained(tmp_path)
    reads, waits = (build(tmp_path, dtype=torch.float16, reads=reads) for reads in (True, False))
    kept = {name for name, one in reads.named_parameters() if one.dtype == torch.float32}
    assert any("norm" in name for name in kept)
    assert kept == {name for name, one in waits.named_parameters() if one.dtype == torch.float32}


def test_new_rows_are_the_mean_of_the_old_ones(folder: Path) -> None:
    old, model = build(folder), build(folder, vocabulary_size=VOCABULARY + 4)
    for before, after in ((old.get_input_embeddings(), model.get_input_embeddings()), (old.lm_head, model.lm_head)):
        assert after.weight.shape[0] == VOCABULARY + 4
        assert torch.equal(after.weight[:VOCABULARY], before.weight)
        for row in after.weight[VOCABULARY:]:
            torch.testing.assert_close(row, before.weight.mean(dim=0))
    assert model.config.vocab_size == VOCABULARY + 4
    torch.testing.assert_close(logits(model)[:, :VOCABULARY], logits(old))


def test_a_new_token_in_a_row_that_was_padding_gets_the_mean_too(folder: Path) -> None:
    old, model = build(folder), build(folder, vocabulary_size=VOCABULARY - 2, new_token_ids=[58, 59])
    known = [i for i in range(VOCABULARY) if i not in (58, 59)]
    assert model.config.vocab_size == VOCABULARY  # never fewer rows than the model has
    for before, after in ((old.get_input_embeddings(), model.get_input_embeddings()), (old.lm_head, model.lm_head)):
        assert torch.equal(after.weight[known], before.weight[known])
        torch.testing.assert_close(after.weight[58], before.weight[known].mean(dim=0))
        assert torch.equal(after.weight[58], after.weight[59])


def test_the_mean_is_taken_in_fp32(folder: Path) -> None:
    model = build(folder, vocabulary_size=VOCABULARY + 1, dtype=torch.bfloat16)
    table = model.get_input_embeddings().weight
    assert torch.equal(table[-1], table[:VOCABULARY].float().mean(dim=0).bfloat16())


def test_random_weights_depend_on_the_seed_alone(folder: Path) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = build(folder, initialization="random", seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = (build(folder, initialization="random", seed=seed) for seed in (3, 4))
    weights = [model.get_input_embeddings().weight for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_every_dropout_is_set() -> None:
    """Attention's apart, also in a config within a config."""
    config = with_dropout(gpt_bigcode(), 0.25, 0.5)
    assert (config.attn_pdrop, config.resid_pdrop, config.embd_pdrop) == (0.5, 0.25, 0.25)
    assert with_dropout(llama(), 0.25).attention_dropout == 0.0
    inner = with_dropout(transformers.Llama4Config(text_config={"attention_dropout": 0.1}), 0.25, 0.5).text_config
    assert inner.attention_dropout == 0.5
    assert gpt_bigcode().attn_pdrop == 0.1  # the model's own is left alone


def test_dropout_reaches_the_modules(folder: Path) -> None:
    model = build(folder, dropout=0.25)
    rates = [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    assert set(rates) <= {0.25}
    assert rates or model.config.model_type == "llama"


def altered(folder: Path, change: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    norm = next(name for name in tensors if name.endswith(("ln_f.weight", "model.norm.weight")))
    match change:
        case "lacks":
            del tensors[norm]
        case "lacks all":
            tensors = {"surplus": torch.zeros(1)}
        case "surplus":
            tensors["model.something.weight"] = torch.zeros(3)
        case "shape":
            tensors[norm] = torch.zeros(3)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("lacks", r"lacks \S+(ln_f|norm)\.weight; its safetensors don't belong to its config.json"),
        ("lacks all", r"lacks (\S+, ){4}\S+ and \d+ more"),
        ("surplus", r"has weights that the model lacks: model.something.weight"),
        ("shape", r"has the wrong shape for \S+(ln_f|norm)\.weight"),
    ],
)
def test_weights_that_do_not_fit_are_named(folder: Path, change: str, message: str) -> None:
    altered(folder, change)
    with pytest.raises(InvalidModel, match=message):
        build(folder)


def test_what_a_class_keeps_frozen_stays_frozen(tmp_path: Path) -> None:
    """ERNIE 4.5 MoE's correction of its router, which `from_pretrained` unfreezes."""
    config = PACKED["frozen parameters (ERNIE 4.5 MoE)"]
    folder = save_random(config, tmp_path)
    frozen = [[n for n, p in build(folder, reads=reads).named_parameters() if not p.requires_grad] for reads in (True, False)]
    assert frozen[0] == frozen[1] == ["model.layers.1.mlp.gate.moe_statics.e_score_correction_bias"]


def test_a_table_of_tokens_that_nobody_resizes_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As DeepSeek-V4's table of experts by token."""
    of_base = transformers.PreTrainedModel.post_init

    def with_table(self: Any) -> None:
        of_base(self)
        if hasattr(self, "lm_head"):
            self.register_buffer("table", torch.zeros(self.config.vocab_size, 2))

    monkeypatch.setattr(transformers.PreTrainedModel, "post_init", with_table)
    save_file(
        {**load_file(folder / "model.safetensors"), "table": torch.zeros(VOCABULARY, 2)}, folder / "model.safetensors", {"format": "pt"}
    )
    build(folder)
    with pytest.raises(InvalidModel, match="can't get new tokens: table has 61 rows for its 65 tokens"):
        build(folder, vocabulary_size=VOCABULARY + 4)
