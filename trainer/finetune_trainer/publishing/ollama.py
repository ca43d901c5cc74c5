"""An Ollama `Modelfile` for a GGUF of an exported model: template, stops and sampling as in training.

In: the folder that `export` made. Out: text. Ollama reads neither the GGUF's chat template nor generation_config.json; its template is
one of Go's. Ours is written without a character outside its actions, since Go's trimming of white space would eat our newlines.
"""

import json
from pathlib import Path

from finetune_trainer.data.dialogues import Role
from finetune_trainer.templates.framed import FramedTemplate
from finetune_trainer.templates.registry import template_from_json
from finetune_trainer.templates.tokenizer import read_tokenizer
from finetune_trainer.templates.turns import joined

# generation_config.json's words -> Ollama's.
_PARAMETERS = {"temperature": "temperature", "top_k": "top_k", "top_p": "top_p", "repetition_penalty": "repeat_penalty"}


def modelfile(folder: Path, weights: str, longest_answer: int) -> str:
    """The Modelfile that lies beside the GGUF `weights`."""
    template = template_from_json((folder / "dialogue_template.json").read_text(encoding="utf-8"))
    settings = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    lines = [f"FROM ./{weights}"]
    if isinstance(template, FramedTemplate):
        lines.append(f'TEMPLATE """{go_template(template)}"""')
    else:
        lines.append("# The model's own chat template is Jinja, in the GGUF: llama.cpp's server reads it, Ollama knows some by heart.")
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in _stops(folder, settings)]
    lines += [f"PARAMETER {theirs} {settings[ours]:g}" for ours, theirs in _PARAMETERS.items() if ours in settings]
    if not settings["do_sample"]:
        lines.append("PARAMETER temperature 0")
    lines.append(f"PARAMETER num_predict {longest_answer}")
    return "\n".join(lines) + "\n"


def go_template(template: FramedTemplate) -> str:
    """The template in Go's language, over Ollama's `.Messages` and `.System`.

    Where no system message is given, the template's own system text is there, as in training.
    """
    # What the tokenizer adds before every text is llama.cpp's to add.
    own = "" if template.system_text is None else joined(template.turns([])).removeprefix(template.begin)
    without = f"{{{{ if not .System }}}}{_literal(own)}{{{{ end }}}}" if own else ""
    branches = [_branch(template, role) for role in ("system", "user", "assistant")]
    turns = "{{ range .Messages }}{{ if " + "{{ else if ".join(branches) + "{{ end }}{{ end }}"
    return without + turns + _literal(template.frame("assistant").header)


def _branch(template: FramedTemplate, role: Role) -> str:
    header, end, tail, lead = template.frame(role)
    return f"eq .Role {json.dumps(role)} }}}}{_literal(header + lead)}{{{{ .Content }}}}{_literal(end + tail)}"


def _literal(text: str) -> str:
    """An action that prints `text`: JSON's escapes are a part of Go's."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""


def _stops(folder: Path, settings: dict[str, object]) -> list[str]:
    """The tokens at which an answer ends, as text: Ollama compares text."""
    tokenizer = read_tokenizer(folder).tokenizer
    ids = settings.get("eos_token_id")
    named = [tokenizer.id_to_token(one) for one in (ids if isinstance(ids, list) else [ids]) if isinstance(one, int)]
    return [token for token in named if token]
