"""What a Transformers of any version makes of exported folders: a program of its own, that knows nothing of ours.

Arguments: a JSON file with {name: folder}, and where to write {name: {version, prompt, logits, answer, stops}} as JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any

MESSAGES = [{"role": "user", "content": "Hello, can you help me? " * 6}]


def read(folder: str) -> dict[str, Any]:
    """Ids of a prompt, its last logits, a greedy answer, and where answers stop."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    prompt = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1].float().tolist()
        mask = torch.ones((1, len(ids)), dtype=torch.long)
        whole = model.generate(torch.tensor([ids]), attention_mask=mask, max_new_tokens=20, do_sample=False, repetition_penalty=1.0)
    stops = GenerationConfig.from_pretrained(folder).eos_token_id
    return {"prompt": ids, "logits": logits, "answer": whole[0, len(ids) :].tolist(), "stops": stops}


def main() -> None:
    """See above; a folder that can't be read has `error` in place of the rest."""
    import transformers

    found: dict[str, Any] = {}
    for name, folder in json.loads(Path(sys.argv[1]).read_text()).items():
        try:
            found[name] = read(folder)
        except Exception as error:  # whatever it is, it is what this version makes of the folder
            found[name] = {"error": f"{type(error).__name__}: {error}"}
    Path(sys.argv[2]).write_text(json.dumps({"version": transformers.__version__, "read": found}))


if __name__ == "__main__":
    main()
