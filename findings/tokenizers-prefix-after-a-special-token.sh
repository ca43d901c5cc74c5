#!/usr/bin/env bash
# Two ways to put a space before a text, which agree on every text without a special token and differ after one.
#
# Guess: the normalizer `Prepend` and the pre-tokenizer `Metaspace` with prepend_scheme "first" are two spellings of Llama's prefix space,
# and what stands after a special token is in the middle of a text for both.
# Seen (tokenizers 0.22.2): a special token cuts the text, and `Prepend` is applied to each piece: it writes a space after `<s>`. `Metaspace`
# "first" looks at the whole text: it doesn't. A text that is encoded in two calls gets a second space from both.
source "$(dirname "$0")/_common"
environment env tokenizers==0.22.2
expect "$("$work/env/bin/python" <<'PYTHON'
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

def made():
    vocabulary = {"▁": 0, "a": 1, "b": 2, "▁a": 3, "▁b": 4, "<s>": 5}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("▁", "a"), ("▁", "b")]))
    tokenizer.add_special_tokens([AddedToken("<s>", special=True, normalized=False)])
    return tokenizer

prepend, metaspace = made(), made()
prepend.normalizer = normalizers.Prepend("▁")
metaspace.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
for name, tokenizer in (("Prepend", prepend), ("Metaspace first", metaspace)):
    print(name, tokenizer.encode("ab").tokens, tokenizer.encode("<s>ab").tokens, tokenizer.encode("a").tokens + tokenizer.encode("b").tokens)
PYTHON
)" "Prepend ['▁a', 'b'] ['<s>', '▁a', 'b'] ['▁a', '▁b']
Metaspace first ['▁a', 'b'] ['<s>', 'a', 'b'] ['▁a', '▁b']"
