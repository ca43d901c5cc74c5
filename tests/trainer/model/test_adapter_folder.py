"""model/adapter_folder.py and merged.py: plain PEFT and plain transformers load what a LoRA run was trained to."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from tests.exported_models import ModelWeights, base_folder, model_of_run, source_model, training_run
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from finetune_api.errors import InvalidModel
from finetune_api.training_run import TrainingRun
from finetune_trainer.model.adapter_folder import export_adapter
from finetune_trainer.model.adapters import adapt
from finetune_trainer.model.merged import adapted_model, merged_weights
from finetune_trainer.model.micro_batch import joined
from finetune_trainer.publishing.export import export
from finetune_trainer.publishing.model_folder import checked_exported, folder_files
from finetune_trainer.training.plain_engine import PlainEngine

# PEFT 0.21 on Transformers 5.23.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

OLD_VOCABULARY = 833
IDS = [5, 17, 300, 833, 836, 41, 7]
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"use_dora": True, "r": 4},
    "rslora": {"use_rslora": True, "lora_alpha": 16},
    "qlora": {},
    "qdora": {"use_dora": True, "r": 4},
    "named": {},  # one kind of layer, and a norm in full
}


@dataclass(frozen=True)
class Trained:
    """A LoRA run with random adapters: the base model, what a checkpoint holds, and the logits of the engine that holds it."""

    run: TrainingRun
    base: Path
    adapters: ModelWeights
    logits: torch.Tensor


class Adapters(ModelWeights):
    """What is trained of a model in memory."""

    def __init__(self, model: Any) -> None:
        self._values = {name: one.detach().float().numpy().copy() for name, one in model.named_parameters() if one.requires_grad}
        self.largest_read = 0


def trained(folder: Path, architecture: str, kind: str, precision: str = "fp32") -> Trained:
    base = base_folder(folder / "base", architecture)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    source_model(base, rows=OLD_VOCABULARY).to(dtype).save_pretrained(base)
    layer, norm = {"gpt_bigcode": ("mlp.c_fc", "ln_f"), "llama": ("down_proj", "norm")}[architecture]
    settings = {"target_modules": [layer], "modules_to_save": [norm]} if kind == "named" else KINDS[kind]
    method = "qlora" if kind.startswith("q") else "lora"
    run = training_run(base, precision=precision, training={"method": method, "lora": settings})
    model = model_in_training(run, base)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(dtype))
    adapters = Adapters(model)
    return Trained(run, base, adapters, PlainEngine(model, run.job.spec.training).logits(joined([IDS])))


def logits_of(model: Any) -> torch.Tensor:
    model.eval()
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.train()  # in evaluation bitsandbytes rounds on some CPUs
    with torch.no_grad():
        made: torch.Tensor = model(input_ids=torch.tensor([IDS])).logits[0].float()
    return made


def quantised(kind: str) -> BitsAndBytesConfig | None:
    """What somebody tells Transformers who loads a base as QLoRA trained beside it."""
    if not kind.startswith("q"):
        return None
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)


def model_in_training(run: TrainingRun, base: Path) -> Any:
    """What an engine trains: of a QLoRA run the base in 4 bits."""
    if run.job.spec.training.method == "lora":
        return adapted_model(run, base).get_base_model()
    model = model_of_run(run, base, four_bits_on=torch.device("cpu"))
    return adapt(model.eval(), run).get_base_model()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["gpt_bigcode", "llama"])  # one table of tokens, and two
def test_peft_and_transformers_compute_what_the_engine_does(
    tmp_path: Path, architecture: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where PEFT finds ./base
    found = trained(tmp_path, architecture, kind)
    record = export_adapter(found.run, found.adapters, step=12, base=found.base, folder=tmp_path / "adapter")
    alone = logits_of(AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", quantization_config=quantised(kind)))
    torch.testing.assert_close(alone, found.logits, rtol=1e-5, atol=1e-5)
    export(found.run, merged_weights(found.run, found.adapters, found.base), step=12, base=found.base, folder=tmp_path / "whole")
    whole = logits_of(AutoModelForCausalLM.from_pretrained(tmp_path / "whole"))
    torch.testing.assert_close(whole, found.logits, rtol=1e-4, atol=1e-5)
    assert checked_exported(tmp_path / "adapter") == record
    assert "config.json" not in folder_files(tmp_path / "adapter")  # it would be taken for a whole model


def test_bf16_is_rounded_once(tmp_path: Path) -> None:
    found = trained(tmp_path, "llama", "lora", "bf16")
    export_adapter(found.run, found.adapters, step=12, base=found.base, folder=tmp_path / "adapter")
    model: Any = AutoModelForCausalLM.from_pretrained(found.base)
    model.resize_token_embeddings(OLD_VOCABULARY + 4, mean_resizing=False)
    alone = PeftModel.from_pretrained(model, tmp_path / "adapter", autocast_adapter_dtype=False)
    torch.testing.assert_close(logits_of(alone), found.logits, rtol=2e-2, atol=2e-2)
    merged = merged_weights(found.run, found.adapters, found.base)
    name = "model.layers.0.mlp.down_proj.weight"
    base = dict(AutoModelForCausalLM.from_pretrained(found.base, dtype=torch.float32).named_parameters())[name].detach().numpy()
    a, b = (found.adapters._values[name.replace("weight", f"lora_{side}.default.weight")] for side in "AB")
    exact = torch.from_numpy(base + b @ a).to(torch.bfloat16).float().numpy()
    read = merged.read(name, 0, base.size).reshape(base.shape)
    assert np.mean(read == exact) > 0.999  # but where fp32 sums in another order fall to the other side


def test_the_adapter_names_its_base_and_is_the_same_each_time(tmp_path: Path) -> None:
    found = trained(tmp_path, "llama", "lora")
    records = [export_adapter(found.run, found.adapters, step=12, base=found.base, folder=tmp_path / f"{n}" / "a") for n in (1, 2)]
    assert records[0] == records[1]
    config = json.loads((tmp_path / "1" / "a" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("./base", None)
    assert not [path for path in (tmp_path / "1" / "a").iterdir() if str(tmp_path).encode() in path.read_bytes()]
    assert config["trainable_token_indices"] == {"model.embed_tokens": [833, 834, 835, 836], "lm_head": [833, 834, 835, 836]}
    for name, revision, written in (
        ("org/base", "c" * 40, ("org/base", "c" * 40)),
        ("gpt2", "c" * 40, ("gpt2", "c" * 40)),
        ("./base", f"sha256:{'c' * 64}", ("./base", None)),
        ("s3://bucket/models/base/", f"sha256:{'c' * 64}", ("./base", None)),
    ):
        job = training_run(found.base, training={"method": "lora"}, model={"name": name}).job
        elsewhere = found.run.model_copy(update={"job": job, "model_revision": revision})
        export_adapter(elsewhere, found.adapters, step=12, base=found.base, folder=tmp_path / "elsewhere")
        config = json.loads((tmp_path / "elsewhere" / "adapter_config.json").read_text())
        assert (config["base_model_name_or_path"], config["revision"]) == written


def test_adapters_of_another_model_are_refused(tmp_path: Path) -> None:
    found, other = trained(tmp_path / "one", "llama", "lora"), trained(tmp_path / "other", "llama", "dora")
    for attempt in (
        lambda: export_adapter(found.run, other.adapters, step=12, base=found.base, folder=tmp_path / "adapter"),
        lambda: merged_weights(found.run, other.adapters, found.base),
    ):
        with pytest.raises(InvalidModel, match="does not fit the base model with adapters"):
            attempt()
