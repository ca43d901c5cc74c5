#!/usr/bin/env bash
# Text that HTML shows as it is becomes markup in the Markdown that is made of it.
#
# Guess: a converter that escapes _ and * so that text stays text does so with whatever else Markdown would take for markup.
# Seen (markdownify 1.2.3): &lt;b&gt; becomes a tag; a bar in a cell becomes another cell; three backticks inside a block of code end it.
source "$(dirname "$0")/_common"
environment env markdownify==1.2.3
expect "$("$work/env/bin/python" <<'PYTHON'
from markdownify import markdownify

for html in ("snake_case", "write &lt;b&gt; here", "<table><tr><td>a|b</td></tr></table>", "<pre>```\ncode\n```</pre>"):
    print(repr(markdownify(html)))
PYTHON
)" "'snake\\\\_case'
'write <b> here'
'|  |\\n| --- |\\n| a|b |'
'\`\`\`\\n\`\`\`\\ncode\\n\`\`\`\\n\`\`\`'"
