"""Small tokenizers of the four kinds that chat models have, trained on the dialogues that were written for the tests.

In: a kind, and control tokens. Out: a `tokenizers.Tokenizer`. The kinds differ in what they do with spaces: byte-level BPE (GPT-2, Llama 3,
Qwen), a normalizer that puts `▁` before every text (Llama 2, Mistral's first), Metaspace that does so before the first (newer exports of
the same), and one that only replaces spaces (Gemma).
"""

import json
import re
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("byte_level", "prepend", "metaspace_first", "replace")
_TOKENS = re.compile(r"<\|[^|<>\s]{1,40}\|>|<[\uff5c|][^\uff5c<>\s]{1,40}[\uff5c|]>|</?[A-Za-z_][\w:-]{0,39}>|\[/?[A-Z_]{2,30}\]")
_SPECIAL = ("<s>", "</s>", "<unk>")


def template_tokens(template: str) -> list[str]:
    """What looks like a control token in a template, besides BOS and EOS."""
    return list(dict.fromkeys(token for token in _TOKENS.findall(template) if token not in _SPECIAL))


def tokenizer(kind: str, tokens: tuple[str, ...] = ()) -> Tokenizer:
    """With `tokens` as added tokens: special those with bars, as many models have it, and ordinary the others."""
    made = Tokenizer.from_str(_trained(kind))
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    for token in tokens:
        special = "|" in token or token.startswith("[")
        made.add_tokens([AddedToken(token, special=special, normalized=False)])
    return made


@cache
def _trained(kind: str) -> str:
    made = Tokenizer(models.BPE() if kind == "byte_level" else models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    alphabet: list[str] = []
    if kind == "byte_level":
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        replace = normalizers.Replace(" ", "▁")
        if kind == "prepend":
            made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace])
        elif kind == "replace":
            made.normalizer = replace
            made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        else:
            made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = [] if kind == "byte_level" else ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=1500, min_frequency=2, special_tokens=special, initial_alphabet=alphabet, show_progress=False, max_token_length=16
    )
    rows = [json.loads(line) for line in (ROOT / "tests/data/tiny_dialogues.jsonl").read_text(encoding="utf-8").splitlines()]
    # A word at a time, or merges would reach over spaces where nothing divides a text.
    words = [word for row in rows for message in row["messages"] for word in re.findall(r" ?\S+|\s+", message["content"])]
    made.train_from_iterator(words, trainer)
    value = json.loads(made.to_str())
    value["added_tokens"] = [token for token in value["added_tokens"] if not token["content"].startswith("<0x")]
    return json.dumps(value)
