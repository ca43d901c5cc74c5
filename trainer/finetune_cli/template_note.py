"""What `template.name: auto` stands for in a job, said before anything is prepared.

In: a job and the folder that its paths start from. Out: a sentence or none. Only files that are here are looked at.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune_api.finetunejob import FineTuneJob


ELSEWHERE = "template: the chat template of the model's tokenizer where it has one, else default; preparation says which"


def template_note(job: "FineTuneJob", base: Path, elsewhere: str | None = None) -> list[str]:
    """Nothing for a job that names its template; `elsewhere` for a model whose tokenizer is not here."""
    from finetune_api.checks import is_path

    if job.spec.template.name != "auto":
        return []
    folder = base / job.spec.model.name
    if not is_path(job.spec.model.name) or not (folder / "tokenizer.json").is_file():
        return [elsewhere] if elsewhere else []
    has_own = _has_chat_template(folder)
    return [f"template: {'that of the tokenizer of the model' if has_own else 'default, for the tokenizer has no chat template'}"]


def _has_chat_template(folder: Path) -> bool:
    from finetune_api.json_text import json_value

    if (folder / "chat_template.jinja").is_file():
        return True
    try:
        return bool(json_value((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template"))
    except (OSError, ValueError, AttributeError):  # preparation says what is wrong with it
        return False
