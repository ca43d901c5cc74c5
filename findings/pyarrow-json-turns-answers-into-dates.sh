#!/usr/bin/env bash
# A column of JSON strings becomes a column of timestamps, if every string of the first block looks like one.
#
# Guess: JSON has strings and no dates, so what is in quotes stays a string.
# Seen (pyarrow 26.0.1): answers that are dates come back as datetimes, and a time of day is added that nobody wrote. One other answer
# among them keeps them all as they were: it depends on the rows.
source "$(dirname "$0")/_common"
environment env pyarrow==26.0.1
expect "$("$work/env/bin/python" <<'PYTHON'
import io
import pyarrow.json

def read(*answers):
    column = pyarrow.json.read_json(io.BytesIO("".join(f'{{"answer": "{one}"}}\n' for one in answers).encode()))["answer"]
    print(column.type, [str(value) for value in column.to_pylist()])

read("1969-07-20", "1989-11-09")
read("1969-07-20", "It was in 1989.")
PYTHON
)" "timestamp[s] ['1969-07-20 00:00:00', '1989-11-09 00:00:00']
string ['1969-07-20', 'It was in 1989.']"
