"""Tiny models with weights that tests of the assistant ask: an exported run of ours, and folders as transformers saves them."""

import json
from pathlib import Path
from typing import Any

from tests.exported_models import LLAMA, ModelWeights, base_folder, source_model, training_run

OLD_VOCABULARY = 833
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|endoftext|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def exported_run(folder: Path, *, architecture: str = "gpt_bigcode") -> Path:
    """A run folder with an exported model of ours."""
    from finetune_trainer.publishing.card import public_job
    from finetune_trainer.publishing.export import describe, export

    base = base_folder(folder / "tiny", architecture)
    run = training_run(base, generation={"maxNewTokens": 12, "repetitionPenalty": 1.0})
    (folder / "run.json").write_text(run.to_json())
    export(run, ModelWeights(source_model(base, rows=OLD_VOCABULARY + 4)), step=3, base=base, folder=folder / "model")
    describe(folder / "model", {"finetunejob.yaml": public_job(run)})
    return folder


def saved_folder(folder: Path, *, chat_template: str | None = None, seed: int = 7, scale: float = 8.0, **config: Any) -> Path:
    """A random fp32 model as transformers saves it; Llama's architecture unless `config` says another.

    `scale` multiplies its weights: next tokens are far from equally likely, so that answers differ from prompt to prompt.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    base_folder(folder, "llama")
    settings = {**LLAMA, "max_position_embeddings": 4096, **config}
    (folder / "config.json").write_text(json.dumps(settings))
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
    model.save_pretrained(folder)
    return folder
