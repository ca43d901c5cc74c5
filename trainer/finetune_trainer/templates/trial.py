"""The first rendering of a template that nobody has tried, in a process of its own with limits of time and memory.

In: a template. Out: nothing, or a refusal: a template is a program, and one that loops for ever or eats memory must not take this process
with it. The process loads nothing but Jinja. `python -m finetune_trainer.templates.trial` is that process: JSON in, a line out.
"""

import json
import resource
import signal
import subprocess
import sys
from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING

from finetune_api.errors import InvalidModel
from finetune_trainer.templates.rendering import TemplateRefused, render

if TYPE_CHECKING:
    from finetune_trainer.templates.model import Source  # the process of its own starts without it

# Of processor time: a busy machine refuses no template. Templates wait for nothing, so the other limit is for a machine that stands.
_SECONDS = 20
_LONGEST_WAIT_SECONDS = 600
_BYTES = 1 << 30
_CONVERSATION = [{"role": role, "content": "text"} for role in ("user", "assistant", "user", "assistant")]


def try_out(source: "Source") -> None:
    """Raises InvalidModel when the template does not come to an end within the limits. Whether it takes dialogues is not asked here."""
    request = {"text": source.text, "variables": dict(source.variables), "day": source.day.isoformat(), "seconds": _SECONDS}
    _tried(json.dumps(request, sort_keys=True))


@lru_cache(maxsize=64)
def _tried(request: str) -> None:
    command = [sys.executable, "-m", "finetune_trainer.templates.trial"]
    try:
        ended = subprocess.run(command, input=request, capture_output=True, text=True, timeout=_LONGEST_WAIT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise InvalidModel(f"the chat template was not tried within {_LONGEST_WAIT_SECONDS} s on this busy machine; try again") from None
    if ended.returncode == -signal.SIGXCPU:
        raise InvalidModel(f"the chat template does not come to an end within {_SECONDS} s; correct it, or use one of our templates")
    if ended.returncode != 0:
        said = (ended.stderr.strip().splitlines() or ["no message"])[-1]
        raise InvalidModel(
            f"the chat template could not be tried with {_BYTES >> 20} MiB of memory ({said}); correct it, or use one of our templates"
        )


def main() -> None:
    """Render a few conversations. Ends with 0 whether the template takes them or not."""
    request = json.loads(sys.stdin.read())
    resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (request["seconds"], request["seconds"] + 1))
    for count in (1, 2, 3, 4):
        for generation_prompt in (False, True):
            try:
                render(
                    request["text"],
                    _CONVERSATION[:count],
                    tools=None,
                    generation_prompt=generation_prompt,
                    variables=request["variables"],
                    day=date.fromisoformat(request["day"]),
                )
            except TemplateRefused as error:
                if "memory" in str(error):
                    sys.exit(str(error))


if __name__ == "__main__":
    main()
