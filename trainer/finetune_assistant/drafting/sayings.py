"""The words of a draft: its first lines, the comments of what was found, and what is told beside it."""

from collections.abc import Sequence
from typing import Final

from finetune_api.errors import InvalidSpec
from finetune_api.finetunejob import FineTuneJob
from finetune_api.plan import plan
from finetune_assistant.drafting.found import FoundModel, FoundSource
from finetune_trainer.machine import ThisMachine, with_workers_of
from finetune_trainer.reporting.readable import size

TEMPLATES: Final = {
    "model": "dialogues are written by the chat template of the model's tokenizer",
    "default": "the tokenizer has no chat template, so ours is used: <|system|>, <|user|>, <|assistant|>, <|end|>",
}


def header(model: FoundModel, sources: Sequence[FoundSource]) -> str:
    """What learns from what."""
    data = ", ".join(found.source.path for found in sources[:2]) + (f" and {len(sources) - 2} more" if len(sources) > 2 else "")
    return f"{model.spec.name} learns from {data}. Drafted by `finetune init`; fields that are absent have their defaults."


def where(machine: ThisMachine, *, cluster: bool) -> str:
    """What it runs on."""
    if cluster:
        return "For a cluster: lines with `yours` are to be filled in; then `finetune validate --cluster` and `finetune apply`."
    return f"Without workers `finetune run` takes what a machine has; this one: {called(machine)}."


def called(machine: ThisMachine) -> str:
    """A machine in a few words."""
    if machine.gpus:
        return f"{machine.gpus} x {machine.accelerator or 'GPU'}, {size(machine.gpu_memory_bytes or 0)} each"
    return f"{machine.cpus} CPUs, {size(machine.memory_bytes or 0)}, no GPU"


def notes(model: FoundModel, sources: Sequence[FoundSource], job: FineTuneJob, machine: ThisMachine | None) -> list[str]:
    """What is to be known beside the job; of `machine`, unless it is for another, whether the job can run on it."""
    found = [f"the model is not looked at: {model.away}"] if model.away else []
    for source in sources:
        found += [f"the data is not looked at: {source.away}"] if source.away else []
        found += [f"{source.source.path}: not used: {number:,} x {reason}" for reason, number in source.left_out.items()]
        found += [f"{source.source.path}: {source.wrong:,} wrong rows; the first: {source.first_wrong}"] if source.wrong else []
    return found if machine is None else [*found, *_not_here(job, model, machine)]


def _not_here(job: FineTuneJob, model: FoundModel, machine: ThisMachine) -> list[str]:
    """Why `finetune run` would refuse the job on this machine."""
    try:
        plan(with_workers_of(machine, job), model.shape, None, machine)
    except InvalidSpec as refused:
        return [f"on this machine `finetune run` refuses it: {problem}" for problem in refused.problems]
    return []


def source_comment(found: FoundSource) -> str:
    """What the rows of a source are."""
    if found.away:
        return "not looked at, see the note"
    rows = f"{'' if found.is_all else 'the first '}{found.rows:,} row{'s' if found.rows > 1 else ''}"
    turns = f" of {found.messages / found.usable:.1f} messages" if found.messages else ""
    paths = f", {found.usable:,} dialogues" if found.usable > found.rows else ""
    wrong = f", {found.wrong:,} wrong ({found.wrong / found.rows:.1%})" if found.wrong else ""
    return f"format {found.format}: {rows}{paths}{turns}{wrong}"
