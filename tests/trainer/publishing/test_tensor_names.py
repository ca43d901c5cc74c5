"""Published names of tensors: as `save_pretrained` writes the same model."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.readers.models import CONFIGS, exported


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith(("llama, plain", "gpt_neox", "mixtral", "qwen3_moe"))])
def test_tensors_are_named_and_cut_as_save_pretrained_does(name: str, tmp_path: Path) -> None:
    from safetensors.numpy import load_file
    from transformers import AutoModelForCausalLM

    folder = exported(name, tmp_path)
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "saved")
    ours, theirs = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "saved"))
    assert ours.keys() == theirs.keys()
    for key, values in theirs.items():
        np.testing.assert_array_equal(ours[key], values)
    assert json.loads((folder / "config.json").read_text())["architectures"] == CONFIGS[name]["architectures"]
