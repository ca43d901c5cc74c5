#!/usr/bin/env bash
# A tokenizer that has a token for every byte can't spell a line of Python.
#
# Guess: with byte_fallback nothing is unknown, so decoding gives back what was encoded.
# Seen (sentencepiece 0.2.3): text is normalised before it is cut: spaces at the beginning and repeated ones, tabs and circled digits are
# lost. That is a default, apart from byte fallback; with `identity` and remove_extra_whitespaces off, text comes back.
source "$(dirname "$0")/_common"
environment env sentencepiece==0.2.3
expect "$("$work/env/bin/python" 2>/dev/null <<'PYTHON'
import io
import sentencepiece

text = ["def f(x):", "    return x + 1", "    if x:", "        return 2"] * 50
for name, settings in (
    ("default", {}),
    ("identity", {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "add_dummy_prefix": False}),
):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=model, vocab_size=275, byte_fallback=True, minloglevel=2, **settings
    )
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    print(name, [tokenizer.decode(tokenizer.encode(one)) for one in ("    return x", "a  b", "\tx", "①")])
PYTHON
)" "default ['return x', 'a b', 'x', '1']
identity ['    return x', 'a  b', '\\tx', '①']"
