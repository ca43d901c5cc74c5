#!/usr/bin/env bash
# The answers "None", "NA" and "null" of a CSV file are missing values once `datasets` has read it.
#
# Guess: a data set of text keeps text; a missing answer is an empty field.
# Seen (datasets 5.2.0, pandas 2.3.3): the CSV builder passes the file to pandas, whose list of missing values has eighteen words, some of
# which are good answers. They come back as None, as if the field had been empty. keep_default_na=False keeps them.
source "$(dirname "$0")/_common"
environment env datasets==5.2.0 pyarrow==26.0.1 pandas==2.3.3
printf 'question,answer\nHow many are left?,None\nSodium?,NA\nWhat is the value?,null\nAnd now?,nothing\n' >"$work/rows.csv"
expect "$(HF_HOME="$work/cache" HF_HUB_OFFLINE=1 "$work/env/bin/python" - "$work/rows.csv" 2>/dev/null <<'PYTHON'
import sys
from datasets import load_dataset

for settings in ({}, {"keep_default_na": False}):
    rows = load_dataset("csv", data_files=sys.argv[1], split="train", **settings)
    print(settings, [row["answer"] for row in rows])
PYTHON
)" "{} [None, None, None, 'nothing']
{'keep_default_na': False} ['None', 'NA', 'null', 'nothing']"
