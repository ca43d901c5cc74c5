#!/usr/bin/env bash
# A word in a file's name decides which split it is in, and once one file has such a word the others are left out.
#
# Guess: load_dataset of a folder reads all of its files into `train`, unless they are called train, validation and test.
# Seen (datasets 5.2.0): `dev_notes.jsonl` holds the word "dev" and is the validation split, `evaluate_me.jsonl` holds no word of the list
# and is in no split at all, in silence: there is no `train`. Without the first file the second is `train`.
source "$(dirname "$0")/_common"
environment env datasets==5.2.0 pyarrow==26.0.1
mkdir "$work/both" "$work/one"
echo '{"text": "a note"}' | tee "$work/both/dev_notes.jsonl" "$work/both/evaluate_me.jsonl" >"$work/one/evaluate_me.jsonl"
expect "$(HF_HOME="$work/cache" HF_HUB_OFFLINE=1 "$work/env/bin/python" - "$work/both" "$work/one" 2>/dev/null <<'PYTHON'
import os, sys
from datasets import load_dataset

for folder in sys.argv[1:]:
    print(sorted(os.listdir(folder)), {name: len(split) for name, split in load_dataset(folder).items()})
PYTHON
)" "['dev_notes.jsonl', 'evaluate_me.jsonl'] {'validation': 1}
['evaluate_me.jsonl'] {'train': 1}"
