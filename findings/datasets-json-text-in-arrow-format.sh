#!/usr/bin/env bash
# The same text of a data set has quotation marks around it or not, by the format that it is asked for in.
#
# Guess: with_format("arrow") changes the container (a pyarrow table), not the values in it.
# Seen (datasets 5.2.0, pyarrow 26.0.1): where one message's content is a string and another's a list, the field gets the type `Json`; without
# a format its values are as they were written, and in the arrow format each is its JSON text: a plain string comes in quotation marks.
source "$(dirname "$0")/_common"
environment env datasets==5.2.0 pyarrow==26.0.1
mkdir "$work/rows"
cat >"$work/rows/train.jsonl" <<'ROWS'
{"messages": [{"role": "user", "content": "hi"}]}
{"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}
ROWS
expect "$(HF_HOME="$work/cache" HF_HUB_OFFLINE=1 "$work/env/bin/python" - "$work/rows" 2>/dev/null <<'PYTHON'
import sys
from datasets import load_dataset

rows = load_dataset(sys.argv[1], split="train")
for kind, message in (("plain", rows[0]["messages"][0]), ("arrow", rows.with_format("arrow")[:].to_pylist()[0]["messages"][0])):
    print(kind, message["content"])
PYTHON
)" 'plain hi
arrow "hi"'
