"""What mlx-lm makes of exported folders: a program of its own, that knows nothing of ours. Arguments as `transformers_reader`."""

import json
import sys
from pathlib import Path
from typing import Any

MESSAGES = [{"role": "user", "content": "Hello, can you help me? " * 6}]


def read(folder: str) -> dict[str, Any]:
    """Ids of a prompt, its last logits, a greedy answer, and where answers stop."""
    import mlx.core as mx
    from mlx_lm import load

    model, tokenizer = load(folder)
    ids = list(tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False))
    logits = model(mx.array([ids]))[0, -1].astype(mx.float32)
    found = {"prompt": ids, "logits": logits.tolist(), "stops": sorted(tokenizer.eos_token_ids)}
    answer: list[int] = []
    while len(answer) < 20 and (not answer or answer[-1] not in found["stops"]):
        answer.append(int(model(mx.array([ids + answer]))[0, -1].argmax()))
    return found | {"answer": answer}


def main() -> None:
    """See above."""
    import mlx_lm

    found: dict[str, Any] = {}
    for name, folder in json.loads(Path(sys.argv[1]).read_text()).items():
        try:
            found[name] = read(folder)
        except Exception as error:  # whatever it is, it is what this engine makes of the folder
            found[name] = {"error": f"{type(error).__name__}: {error}"}
    Path(sys.argv[2]).write_text(json.dumps({"version": mlx_lm.__version__, "read": found}))


if __name__ == "__main__":
    main()
