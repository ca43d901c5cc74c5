"""Make the tokenizer of `examples/tiny`: byte-level BPE, trained on the dialogues that were written for the tests.

    python tests/make_tokenizer.py [FOLDER]

In: tests/data/tiny_dialogues.jsonl. Out: tokenizer.json and tokenizer_config.json in the folder (examples/tiny). The same
input gives the same bytes, so that golden token ids in tests stay valid. It has `<|endoftext|>` and no control tokens: like
a base model's, it gets those from the template.
"""

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parent.parent
END_OF_TEXT = "<|endoftext|>"
VOCABULARY_SIZE = 1024


def dialogue_texts(path: Path) -> list[str]:
    """The contents of all messages, in file order."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [message["content"] for row in rows for message in row["messages"]]


def tokenizer(texts: list[str]) -> Tokenizer:
    """Digits apart, as StarCoder's tokenizer has them; every byte is in the alphabet, so that no text is unknown."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    return made


def settings() -> dict[str, object]:
    """tokenizer_config.json: what transformers needs beside the vocabulary."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
    }


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    made = tokenizer(dialogue_texts(ROOT / "tests/data/tiny_dialogues.jsonl"))
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings(), indent=2) + "\n", encoding="utf-8")
    print(f"{folder}: {made.get_vocab_size()} tokens")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "examples/tiny")
