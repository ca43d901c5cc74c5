"""examples/demo/convert.py, on a model of sixteen dimensions."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFWriter
from tests.conftest import ROOT

WIDTH = 16
TOKENS = ["<s>", "</s>", "a", "b", "ab", "c"]
BLOCK = {"attn_norm": 1, "attn_q": 2, "attn_k": 2, "attn_v": 2, "attn_output": 2, "ffn_norm": 1, "ffn_gate": 2, "ffn_up": 2, "ffn_down": 2}


def write_gguf(path: Path) -> None:
    """A Llama of two layers with a byte-level BPE tokenizer."""
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(32)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(WIDTH)
    writer.add_block_count(2)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // 2)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 1, 1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    drawn = np.random.default_rng(0)
    shapes = {"token_embd": (len(TOKENS), WIDTH), "output_norm": (WIDTH,)}
    shapes |= {f"blk.{layer}.{name}": (WIDTH,) * dimensions for layer in range(2) for name, dimensions in BLOCK.items()}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", drawn.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_the_conversion_writes_lines_and_no_bars_into_a_log_that_is_no_terminal(tmp_path: Path) -> None:
    (tmp_path / "wheel").mkdir()
    write_gguf(tmp_path / "wheel/tiny.gguf")
    command = [sys.executable, "-m", "examples.demo.convert", str(tmp_path / "wheel"), str(tmp_path / "model")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["  reading the tokenizer", "  widening the weights to fp32", "  writing model.safetensors"]
    assert "\r" not in done.stderr
    assert "%|" not in done.stderr
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
