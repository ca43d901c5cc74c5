"""Dialogues and encoders for tests of template, labels and preparation."""

from pathlib import Path
from typing import Any

from finetune_api.finetunejob import FineTuneJob, TemplateSpec
from finetune_trainer.data.dialogues import Dialogue, Message
from finetune_trainer.preparation.labels import Encoder
from finetune_trainer.templates.registry import template_from_spec
from finetune_trainer.templates.tokenizer import read_tokenizer

ROOT = Path(__file__).resolve().parents[2]
TINY_MODEL = ROOT / "examples/tiny"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def messages(*contents: str, system: str | None = None) -> tuple[Message, ...]:
    """User and assistant in turn, a system message before them if one is given."""
    first = [] if system is None else [Message(role="system", content=system)]
    turns = [Message(role="assistant" if index % 2 else "user", content=content) for index, content in enumerate(contents)]
    return (*first, *turns)


def dialogue(*contents: str, system: str | None = None, row: int = 1) -> Dialogue:
    """A dialogue of those messages."""
    return Dialogue(source="test.jsonl", row=row, tree=f"tree {row}", messages=messages(*contents, system=system))


def encoder(folder: Path = TINY_MODEL, **spec: Any) -> Encoder:
    """An encoder on the tiny tokenizer, or another; `spec` are fields of TemplateSpec."""
    files = read_tokenizer(folder)
    return Encoder(files.tokenizer, template_from_spec(TemplateSpec(**spec), files))


def job(sources: list[dict[str, Any]], *, max_length: int = 128, template: dict[str, Any] | None = None, **dataset: Any) -> FineTuneJob:
    """A job on the tiny model; `dataset` are more fields of spec.dataset."""
    spec = {
        "model": {"name": str(TINY_MODEL), "initialization": "random"},
        "dataset": {"sources": sources, "processes": 1, **dataset},
        "template": template or {"name": "no_system"},
        "training": {"maxSequenceLength": max_length},
    }
    return FineTuneJob.model_validate(
        {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "test"}, "spec": spec}
    )
