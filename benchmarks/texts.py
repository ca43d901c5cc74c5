"""Real dialogues of which no message comes twice, and three vocabularies with templates, for measurements of preparation.

In: the folder of real data, Python's standard library, SmolLM2's tokenizer. Out: rows of `messages`; a model folder that `prepare` reads.
What is measured is unknown here. No vocabulary of the Llama 3 family can be had without an account: its division of texts and its
template stand over SmolLM2's merges.
"""

import ast
import json
import random
import shutil
import sysconfig
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from textwrap import dedent

from tokenizers import Tokenizer

CORPORA = ("prose", "code")
# Each with the template that it is trained with most often.
TEMPLATES = {"StarCoder": {"name": "no_system", "systemTurn": False}, "SmolLM2": {"name": "model"}, "Llama-3-like": {"name": "model"}}

Dialogue = list[dict[str, str]]

_EXPRESSION = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"  # of Llama 3
)
_HEADER = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_TEMPLATE = (
    "{{- bos_token }}{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)


def write_rows(data: Path, folder: Path, corpora: Sequence[str] = CORPORA, most: int | None = None) -> int:
    """rows.jsonl: at most so many dialogues of each corpus, in an order that mixes them; their number."""
    rows = [one for corpus in corpora for one in islice(dialogues(corpus, data), most)]
    random.Random(0).shuffle(rows)
    lines = (json.dumps({"messages": one}, ensure_ascii=False) + "\n" for one in rows)
    (folder / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    return len(rows)


def dialogues(corpus: str, data: Path) -> Iterator[Dialogue]:
    """Each whose messages have all been in none before."""
    met: set[str] = set()
    for one in _prose(data) if corpus == "prose" else _code():
        contents = {message["content"] for message in one}
        if not contents & met:
            yield one
        met |= contents


def _prose(data: Path) -> Iterator[Dialogue]:
    """OpenAssistant's trees and single turns."""
    from finetune_api.finetunejob import DataSource
    from finetune_trainer.data.dialogues import Dialogue as Parsed
    from finetune_trainer.data.parsing import parse
    from finetune_trainer.data.sources import read
    from finetune_trainer.secrets import Secrets

    for name in ("oasst1_en_trees.jsonl", "oasst_prompt_completion.jsonl"):
        source = DataSource(path=str((data / name).resolve()))
        for item in parse(read(source, "train", base=Path(), secrets=Secrets()), source):
            if isinstance(item, Parsed):
                yield [{"role": message.role, "content": message.content} for message in item.messages]


def _code() -> Iterator[Dialogue]:
    """The head and the documentation of a function, and the rest of it: the modules of Python's standard library."""
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        if {"site-packages", "test", "tests"} & set(path.relative_to(library).parts):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        lines = text.splitlines(keepends=True)
        for node in ast.walk(ast.parse(text)):
            for function in node.body if isinstance(node, ast.Module | ast.ClassDef) else []:
                if isinstance(function, ast.FunctionDef) and ast.get_docstring(function) and len(function.body) > 1:
                    ends = function.body[0].end_lineno
                    parts = lines[function.lineno - 1 : ends], lines[ends : function.end_lineno]
                    asked, answer = (dedent("".join(part)) for part in parts)
                    yield [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]


def write_model(vocabulary: str, folder: Path, data: Path, smollm2: Path) -> None:
    """The files of a model that preparation reads. `smollm2`: a folder with that model's tokenizer."""
    folder.mkdir()
    if vocabulary == "StarCoder":
        shutil.copyfile(data / "starcoder-tokenizer.json", folder / "tokenizer.json")
        return
    if vocabulary == "SmolLM2":
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copyfile(smollm2 / name, folder / name)
        return
    value = json.loads((smollm2 / "tokenizer.json").read_text(encoding="utf-8"))
    split = {"type": "Split", "pattern": {"Regex": _EXPRESSION}, "behavior": "Isolated", "invert": False}
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    value["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, to_bytes]}
    value["model"]["ignore_merges"] = True
    tokenizer = Tokenizer.from_str(json.dumps(value))
    tokenizer.add_special_tokens(["<|begin_of_text|>", *_HEADER])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<|begin_of_text|>", "eos_token": _HEADER[-1], "chat_template": _TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
