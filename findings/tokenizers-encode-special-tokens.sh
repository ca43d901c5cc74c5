#!/usr/bin/env bash
# No option of a tokenizer makes every added token of a user's text plain text.
#
# Guess: encode(text, add_special_tokens=False) finds no special token in the text, or at least `encode_special_tokens = True` (which reads
# the text of special tokens as text) does so for all added tokens.
# Seen (tokenizers 0.22.2): the argument is about what a post-processor adds, and the text's own `<|end|>` becomes the control token. With
# the property it is text, but a token that was added with special=False, as many models add their roles, is still found.
source "$(dirname "$0")/_common"
environment env tokenizers==0.22.2
expect "$("$work/env/bin/python" <<'PYTHON'
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate("<|>enduseri")}, merges=[]))
tokenizer.pre_tokenizer = pre_tokenizers.Split("x", "removed")
tokenizer.add_special_tokens([AddedToken("<|end|>", special=True, normalized=False)])
tokenizer.add_tokens([AddedToken("<|user|>", special=False, normalized=False)])
print(tokenizer.encode("<|end|><|user|>", add_special_tokens=False).tokens)
tokenizer.encode_special_tokens = True
print(tokenizer.encode("<|end|><|user|>", add_special_tokens=False).tokens)
PYTHON
)" "['<|end|>', '<|user|>']
['<', '|', 'e', 'n', 'd', '|', '>', '<|user|>']"
