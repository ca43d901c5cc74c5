#!/usr/bin/env bash
# What is null comes back with a value, by the most direct way to a field of a struct.
#
# Guess: a row that is null has null in each of its fields, however they are asked for.
# Seen (pyarrow 26.0.1): `array.field(name)` gives the child as it is stored, below the nulls of its parent; `flatten`, `to_pylist` and
# `pyarrow.compute.struct_field` give nulls.
source "$(dirname "$0")/_common"
environment env pyarrow==26.0.1
expect "$("$work/env/bin/python" <<'PYTHON'
import pyarrow as pa
import pyarrow.compute

rows = pa.StructArray.from_arrays([pa.array(["shown", "hidden"])], names=["text"], mask=pa.array([False, True]))
print(rows.to_pylist())
print("field", rows.field("text").to_pylist())
print("struct_field", pyarrow.compute.struct_field(rows, "text").to_pylist(), "flatten", rows.flatten()[0].to_pylist())
PYTHON
)" "[{'text': 'shown'}, None]
field ['shown', 'hidden']
struct_field ['shown', None] flatten ['shown', None]"
