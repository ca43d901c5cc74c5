"""finetune_trainer/model/adapters.py under both engines: what is trained is what PEFT trains, written out in plain PyTorch."""

from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from tests.trainer.adapter_runs import LORA, NEW_TOKENS, engine, method_of, two_ranks
from tests.trainer.architectures import VOCABULARY, gpt_bigcode, llama, random_rows, save_random
from tests.trainer.distributed import run_distributed
from tests.trainer.engine_runs import CURVE, ROWS, steps
from torch.nn.functional import cross_entropy

from finetune_api.errors import InvalidModel
from finetune_api.finetunejob import Lora
from finetune_api.training_run import Vocabulary
from finetune_trainer.model.adapters import try_adapters

# PEFT 0.21 on Transformers 5.23.
pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")]

Curve = list[tuple[float, float]]
MODELS = ("gpt_bigcode", "llama")  # one table of tokens for both ends, and two
CASES = [(model, kind) for model in MODELS for kind in LORA]
DIVIDED = [  # an engine costs seconds
    ("gpt_bigcode", "lora", "zero3"),
    ("llama", "dora", "zero3"),
    ("gpt_bigcode", "lora", "zero2"),
    ("llama", "qlora", "zero2"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {"gpt_bigcode": save_random(gpt_bigcode(), root / "gpt_bigcode"), "llama": save_random(llama(), root / "llama")}


def plain_peft(folder: Path, kind: str, seed: int = 1) -> Any:
    """PEFT's own model: new rows are the mean of the others, and trained."""
    torch.set_num_threads(1)  # tensors this small are slower on several
    lora, given = LORA[kind], {}
    if method_of(kind) == "qlora":
        given["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32
        )
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32, **given)
    model.resize_token_embeddings(VOCABULARY + 1, mean_resizing=False)
    tables = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    with torch.no_grad():
        for table in tables[: 1 if tables[0] is tables[1] else 2]:
            table[list(NEW_TOKENS)] = table[[row for row in range(VOCABULARY + 1) if row not in NEW_TOKENS]].mean(dim=0)
    names = ["wte"] if tables[0] is tables[1] else ["embed_tokens", "lm_head"]
    settings: dict[str, Any] = {name: getattr(lora, name) for name in ("r", "lora_alpha", "use_dora", "use_rslora")}
    torch.manual_seed(seed)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", target_modules="all-linear", trainable_token_indices={name: list(NEW_TOKENS) for name in names}, **settings
    )
    adapted = peft.get_peft_model(model, config).eval()
    for module in adapted.modules():
        if type(module).__name__ == "Linear4bit":
            module.train()  # in evaluation bitsandbytes rounds on some CPUs
    assert all(parameter.dtype == torch.float32 for parameter in adapted.parameters() if parameter.requires_grad)
    return adapted


def plain_curve(folder: Path, kind: str, count: int) -> Curve:
    """The engine's steps in plain PyTorch and PEFT, one process, dialogue by dialogue: (loss, gradient norm)."""
    model = plain_peft(folder, kind)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, eps=1e-6, weight_decay=0.0)
    curve = []
    for step in range(count):
        rows = random_rows(ROWS, seed=step)
        supervised = sum(row.num_supervised for row in rows)
        total = torch.zeros(())
        for row in rows:
            for start, stop in zip(row.cu_seq_lens[:-1], row.cu_seq_lens[1:], strict=True):
                made = model(input_ids=torch.tensor(row.input_ids[start:stop])[None]).logits[0]
                total = total + cross_entropy(made, torch.tensor(row.labels[start:stop]), reduction="sum")
        optimizer.zero_grad()
        (total / supervised).backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 0.5)
        optimizer.step()
        curve.append((float(total.detach()) / supervised, float(norm)))
    return curve


@pytest.fixture(scope="module")
def plain(folders: dict[str, Path]) -> dict[str, Curve]:
    return {f"{model} {kind}": plain_curve(folders[model], kind, CURVE) for model, kind in CASES}


@pytest.mark.parametrize(("model", "kind"), CASES)
def test_one_worker_trains_what_peft_trains(folders: dict[str, Path], plain: dict[str, Curve], model: str, kind: str) -> None:
    trained = engine(folders[model], LORA[kind], method=method_of(kind))
    assert trained.constants == {}
    np.testing.assert_allclose(steps(trained, CURVE), plain[f"{model} {kind}"], rtol=1e-5)


@pytest.fixture(scope="module")
def at_two(folders: dict[str, Path]) -> list[dict[str, Any]]:
    return run_distributed(two_ranks, 2, [(model, folders[model], kind, name) for model, kind, name in DIVIDED])


@pytest.mark.parametrize(("model", "kind", "name"), DIVIDED)
def test_two_workers_train_what_peft_trains_and_go_on_from_what_they_saved(
    plain: dict[str, Curve], at_two: list[dict[str, Any]], model: str, kind: str, name: str
) -> None:
    for result in (rank[f"{model} {kind} {name}"] for rank in at_two):
        np.testing.assert_allclose(result["curve"], plain[f"{model} {kind}"], rtol=1e-5)
        assert result["again"] == result["curve"]
        assert result["constants"] == 0


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("llama", {"target_modules": ["c_fc"]}, "spec.training.lora does not fit LlamaForCausalLM"),
        ("llama", {"target_modules": ["q_proj", "lm_head"]}, "have a row for each token and take no adapter"),
        ("llama", {"modules_to_save": ["ln_f"]}, "LlamaForCausalLM has no module ln_f"),
        ("gpt_bigcode", {"modules_to_save": ["wte"]}, "are one table, of which PEFT would train a copy"),
    ],
)
def test_what_does_not_fit_the_architecture_is_refused(
    folders: dict[str, Path], model: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidModel, match=message):
        engine(folders[model], Lora(**settings))
    with pytest.raises(InvalidModel, match=message):  # before any worker starts
        try_adapters(folders[model], Lora(**settings), Vocabulary(size=VOCABULARY + 1, new_token_ids=NEW_TOKENS))


def test_a_table_that_is_trained_in_full_has_no_rows_of_its_own(folders: dict[str, Path]) -> None:
    trained = engine(folders["llama"], Lora(modules_to_save=["lm_head", "embed_tokens"]))
    assert trained.shapes["lm_head.modules_to_save.default.weight"] == (VOCABULARY + 1, 40)
    assert not any("trainable_tokens" in name for name in trained.shapes)
    first, second = steps(trained, 2)
    assert first[0] != second[0]
