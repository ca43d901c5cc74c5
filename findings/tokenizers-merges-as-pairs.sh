#!/usr/bin/env bash
# A tokenizer.json that was only loaded and saved again can't be read by programs of a year before.
#
# Guess: the format says "version": "1.0", before and after, so a file of one is a file of the other.
# Seen: tokenizers 0.22.2 reads merges of both kinds, "a b" and ["a", "b"], and writes pairs. tokenizers 0.19.1 says that the file matches
# no kind of model at all, and names no field.
source "$(dirname "$0")/_common"
environment new tokenizers==0.22.2
environment old tokenizers==0.19.1
cat >"$work/save.py" <<'PYTHON'
import sys
from tokenizers import Tokenizer, models
Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")])).save(sys.argv[1])
PYTHON
"$work/old/bin/python" "$work/save.py" "$work/old.json"
expect "$("$work/new/bin/python" - "$work/old.json" "$work/new.json" <<'PYTHON'
import json, sys
from tokenizers import Tokenizer
Tokenizer.from_file(sys.argv[1]).save(sys.argv[2])
for path in sys.argv[1:]:
    whole = json.load(open(path))
    print(whole["version"], whole["model"]["merges"])
PYTHON
"$work/old/bin/python" -c 'import sys
from tokenizers import Tokenizer
try: Tokenizer.from_file(sys.argv[1])
except Exception as error: print(str(error).split(" at line")[0])' "$work/new.json")" "1.0 ['a b']
1.0 [['a', 'b']]
data did not match any variant of untagged enum ModelWrapper"
