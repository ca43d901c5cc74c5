"""What plain Transformers makes of a folder: a program of its own, that knows nothing of ours.

Arguments: the folder, a JSON file with the user's messages, a .npz to write: the ids of each prompt and the logits of all their tokens.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(folder: str, messages: str, target: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    found = {}
    for number, text in enumerate(json.loads(Path(messages).read_text())):
        conversation = [{"role": "user", "content": text}]
        ids = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=False)
        with torch.no_grad():
            logits = model(torch.tensor([ids]), use_cache=False).logits[0]
        found |= {f"ids-{number}": np.array(ids), f"logits-{number}": logits.float().numpy()}
    np.savez(target, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
