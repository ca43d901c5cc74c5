#!/usr/bin/env bash
# A column that the first row lacks is lost, in silence, with all its values.
#
# Guess: Dataset.from_list makes the columns that any row has, with nulls where a row has none.
# Seen (datasets 5.2.0, pyarrow 26.0.1): it takes the first row's columns, and so does pyarrow's Table.from_pylist. A key that is absent
# later becomes null; one that comes later is dropped. load_dataset on the same rows as a JSON file keeps it.
source "$(dirname "$0")/_common"
environment env datasets==5.2.0 pyarrow==26.0.1
mkdir "$work/rows"
cat >"$work/rows/train.jsonl" <<'ROWS'
{"prompt": "Hi"}
{"prompt": "What is 2 + 2?", "answer": "4"}
ROWS
expect "$(HF_HOME="$work/cache" HF_HUB_OFFLINE=1 "$work/env/bin/python" - "$work/rows" 2>/dev/null <<'PYTHON'
import json, pathlib, sys
import pyarrow
from datasets import Dataset, load_dataset

rows = [json.loads(line) for line in pathlib.Path(sys.argv[1], "train.jsonl").read_text().splitlines()]
print("from_list", Dataset.from_list(rows)[1])
print("from_pylist", pyarrow.Table.from_pylist(rows).to_pylist()[1])
print("load_dataset", load_dataset(sys.argv[1], split="train")[1])
PYTHON
)" "from_list {'prompt': 'What is 2 + 2?'}
from_pylist {'prompt': 'What is 2 + 2?'}
load_dataset {'prompt': 'What is 2 + 2?', 'answer': '4'}"
