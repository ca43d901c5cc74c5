#!/usr/bin/env bash
# A file of chats loads or doesn't by where its first tool call stands.
#
# Guess: load_dataset("json") makes one type of all rows, so that a message with tool_calls is read wherever it stands, as it is in a small file.
# Seen (datasets 5.2.0): the type is that of the first ten megabytes. A key that messages have only behind them can't be cast, and nothing is
# loaded; the same rows with that one in front are. Parquet, whose type stands in the file, is the way out; so is chunksize.
source "$(dirname "$0")/_common"
environment env datasets==5.2.0 pyarrow==26.0.1
expect "$(HF_HOME="$work/cache" HF_HUB_OFFLINE=1 "$work/env/bin/python" - "$work" 2>/dev/null <<'PYTHON'
import json, pathlib, sys
from datasets import load_dataset

folder = pathlib.Path(sys.argv[1])
plain = json.dumps({"messages": [{"role": "user", "content": "word " * 200}, {"role": "assistant", "content": "Yes."}]})
call = {"type": "function", "function": {"name": "now", "arguments": "{}"}}
tool = json.dumps({"messages": [{"role": "user", "content": "What time is it?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]})
many = [plain] * 12_000  # 13 MB

def loaded(name, rows):
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(rows) + "\n")
    try:
        return f"{load_dataset('json', data_files=str(path), split='train').num_rows} rows"
    except Exception as error:
        return type(error).__name__

print("few rows, the call last:", loaded("few", [plain, tool]))
print("many rows, the call first:", loaded("first", [tool, *many]))
print("many rows, the call last:", loaded("last", [*many, tool]))
PYTHON
)" "few rows, the call last: 2 rows
many rows, the call first: 12001 rows
many rows, the call last: DatasetGenerationError"
