"""`finetune run` of QLoRA as a user types it: two workers under ZeRO-2, the base in 4 bits. Both forms that come out are one model."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from tests.conftest import ROOT
from tests.exported_models import base_folder, source_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

pytestmark = [
    pytest.mark.training,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # PEFT 0.21 on Transformers 5.23
]

FINETUNE = Path(sys.executable).with_name("finetune")
STEPS = 8
JOB: dict[str, Any] = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "FineTuneJob",
    "metadata": {"name": "small"},
    "spec": {
        "model": {"name": "./base"},
        "dataset": {"sources": [{"path": str(ROOT / "tests/data/tiny_dialogues.jsonl")}]},
        "training": {
            "method": "qlora",
            "sharding": "zero2",
            "lora": {"r": 8, "lora_alpha": 16},
            "maxSteps": STEPS,
            "epochs": None,
            "maxSequenceLength": 128,
            "microBatchSize": 1,
            "globalBatchSize": 4,
            "precision": "fp32",
            "optimizer": {"learningRate": 5e-3, "warmupSteps": 0},
        },
        "workers": {"device": "cpu", "gpusPerNode": 0, "workersPerNode": 2},
    },
}
IDS = torch.tensor([[5, 17, 300, 41, 7]])


def test_two_workers_train_beside_a_base_in_four_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = base_folder(tmp_path / "base", "llama")
    source_model(base, rows=json.loads((base / "config.json").read_text())["vocab_size"]).save_pretrained(base)
    (tmp_path / "job.yaml").write_text(json.dumps(JOB))  # JSON is YAML
    command = [FINETUNE, "run", "job.yaml", "--json", "--run-folder", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert any("are kept in 4 bits" in event.get("message", "") for event in events)
    losses = [event["loss"] for event in events if event.get("kind") == "StepDone"]
    assert losses[-1] < losses[0]
    monkeypatch.chdir(tmp_path)  # where PEFT finds ./base
    quantised = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    alone = AutoPeftModelForCausalLM.from_pretrained("run/adapter", quantization_config=quantised, dtype=torch.float32)
    assert json.loads((tmp_path / "run/adapter/adapter_config.json").read_text())["revision"] is None
    torch.testing.assert_close(logits(alone), logits(AutoModelForCausalLM.from_pretrained("run/model")), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    model.eval()
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.train()  # in evaluation bitsandbytes rounds on some CPUs
    made: torch.Tensor = model(input_ids=IDS).logits.float()
    return made
