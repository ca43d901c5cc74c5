"""Another trainer's file as a mapping, and small words around it: a job's name, reasons with their keys."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_api.errors import InvalidSpec, Problem
from finetune_api.keys import KIND
from finetune_api.yaml_text import yaml_value
from finetune_assistant.drafting.translation import meaning_of

_LONGEST_NAME = 40
_SHOWN_KEYS = 5


def read_foreign_file(path: Path) -> dict[str, Any]:
    """The settings in a YAML or JSON file. Raises InvalidSpec: no such file, no YAML, no settings, or a job already."""
    where = f"--from {path}"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidSpec([Problem(where, f"is not UTF-8 text: byte {error.start + 1} can't be read", "name a YAML file")]) from None
    except OSError as error:
        raise InvalidSpec([Problem(where, f"can't be read: {error.strerror}", "name the YAML file of another trainer")]) from None
    value = yaml_value(text, where)
    if not isinstance(value, dict) or not value:
        raise InvalidSpec([Problem(where, "holds no settings", "name axolotl's YAML, or arguments of TRL or Transformers")])
    if value.get("kind") == KIND:
        raise InvalidSpec([Problem(where, "is a FineTuneJob already", f"finetune plan {path}")])
    if not any(meaning_of(str(key)) for key in value):
        shown = ", ".join(map(str, list(value)[:_SHOWN_KEYS]))
        raise InvalidSpec([Problem(where, f"has no key that we know of another trainer, but {shown}", "name axolotl's or TRL's file")])
    return value


def job_name(place: str) -> str:
    """A name that a job may have, after a file or a data set.

    >>> job_name("./data/My Rows.jsonl"), job_name("org/oasst1_en"), job_name("./2024.jsonl.gz"), job_name("/")
    ('my-rows', 'oasst1-en', 'job-2024', 'job')
    """
    stem = place.rstrip("/").rpartition("/")[2].partition(".")[0]
    plain = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")
    if not plain[:1].isalpha():
        plain = f"job-{plain}"
    return plain[:_LONGEST_NAME].strip("-")


def by_reason(left: Mapping[str, str]) -> dict[str, list[str]]:
    """The keys of each reason.

    >>> by_reason({"lora_r": "no adapters", "seed": "has no value", "lora_alpha": "no adapters"})
    {'no adapters': ['lora_r', 'lora_alpha'], 'has no value': ['seed']}
    """
    found: dict[str, list[str]] = {}
    for key, reason in left.items():
        found.setdefault(reason, []).append(key)
    return found
