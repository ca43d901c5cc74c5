"""What CTranslate2 makes of exported folders: a program of its own, that knows nothing of ours. Arguments as `transformers_reader`."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

MESSAGES = [{"role": "user", "content": "Hello, can you help me? " * 6}]


def read(folder: str) -> dict[str, Any]:
    """Ids of a prompt, its last logits, a greedy answer, and where answers stop: CTranslate2 has to be told, by words of the vocabulary."""
    import ctranslate2
    import numpy as np
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    stops = GenerationConfig.from_pretrained(folder).eos_token_id
    with tempfile.TemporaryDirectory() as converted:
        ctranslate2.converters.TransformersConverter(folder).convert(converted, force=True)
        generator = ctranslate2.Generator(converted, device="cpu", compute_type="float32")
        logits = np.array(generator.forward_batch([tokenizer.convert_ids_to_tokens(ids)]))[0, -1]
        (answer,) = generator.generate_batch(
            [tokenizer.convert_ids_to_tokens(ids)],
            max_length=20,
            beam_size=1,
            sampling_topk=1,
            end_token=tokenizer.convert_ids_to_tokens(stops),
            include_prompt_in_result=False,
            return_end_token=True,
        )
    return {"prompt": ids, "logits": logits.tolist(), "answer": answer.sequences_ids[0], "stops": stops}


def main() -> None:
    """See above."""
    import ctranslate2

    found: dict[str, Any] = {}
    for name, folder in json.loads(Path(sys.argv[1]).read_text()).items():
        try:
            found[name] = read(folder)
        except BaseException as error:  # whatever it is, it is what this engine makes of the folder
            found[name] = {"error": f"{type(error).__name__}: {error}"}
    Path(sys.argv[2]).write_text(json.dumps({"version": ctranslate2.__version__, "read": found}))


if __name__ == "__main__":
    main()
