#!/usr/bin/env bash
# The same chat template writes another prompt in plain Jinja than in Transformers, as soon as it has `tojson`.
#
# Guess: `tojson` writes JSON, so a tool's description in a prompt is what json.dumps gives.
# Seen (jinja2 3.1.6): the filter is made for HTML: keys are sorted, `<`, `>`, `&` and `'` are escaped, and so is everything beyond ASCII.
# Transformers 5.23.0 puts a filter of its own in its place, and so what a model was trained on isn't what a server with plain Jinja sends.
source "$(dirname "$0")/_common"
environment env jinja2==3.1.6 transformers==5.23.0
expect "$("$work/env/bin/python" 2>/dev/null <<'PYTHON'
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils.chat_template_utils import render_jinja_template

source, tool = "{{ tools[0] | tojson }}", {"name": "ask", "about": "x < y & l'été"}
print(ImmutableSandboxedEnvironment().from_string(source).render(tools=[tool]))
rendered, _ = render_jinja_template([[{"role": "user", "content": "x"}]], tools=[tool], chat_template=source)
print(rendered[0])
PYTHON
)" '{"about": "x \u003c y \u0026 l\u0027\u00e9t\u00e9", "name": "ask"}
{"name": "ask", "about": "x < y & l'"'été"'"}'
