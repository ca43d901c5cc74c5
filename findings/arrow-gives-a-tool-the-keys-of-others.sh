#!/usr/bin/env bash
# A tool's description that went through Arrow asks for arguments of other rows' tools, in the prompt that a model is trained on.
#
# Guess: rows that are written to a table and read back are the rows, at least those of nested objects.
# Seen (pyarrow 26.0.1, jinja2 3.1.6): a struct column has the keys of all rows; where a row had none there is now null, and a chat
# template's `tojson` writes it down. Only rows of different tools show it.
source "$(dirname "$0")/_common"
environment env pyarrow==26.0.1 jinja2==3.1.6
expect "$("$work/env/bin/python" <<'PYTHON'
import pyarrow
from jinja2 import Environment

rows = [{"tool": {"name": "add", "arguments": {"a": "integer"}}}, {"tool": {"name": "ask", "arguments": {"question": "string"}}}]
template = Environment().from_string("{{ tool | tojson }}")
print(template.render(tool=rows[0]["tool"]))
print(template.render(tool=pyarrow.Table.from_pylist(rows).to_pylist()[0]["tool"]))
PYTHON
)" '{"arguments": {"a": "integer"}, "name": "add"}
{"arguments": {"a": "integer", "question": null}, "name": "add"}'
