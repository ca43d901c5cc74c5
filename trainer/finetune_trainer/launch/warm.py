"""Imported by the process that ranks on the CPU are forked from: it then imports what ranks need. Others import the names alone.

Forking after an import is safe as long as the import computes nothing: torch makes its threads at the first operation.
"""

import importlib
import os
from contextlib import suppress
from typing import Final

from finetune_api.engines import EngineName

# The modules' names, with commas. Written by `local_workers`.
WARM_ENV: Final = "FINETUNE_WARM_MODULES"


def modules_of_ranks(model_type: str, engine: EngineName) -> list[str]:
    """What a rank imports for a family of models. A name that is no module costs nothing, a module that is missing here some time."""
    family = model_type.replace("-", "_")
    names = [
        "model.trial",
        "training.collectives",
        "training.rank",
        "training.plain_engine" if engine == "plain" else "training.zero_engine",
    ]
    others = [f"transformers.models.{family}.modeling_{family}", *([] if engine == "plain" else ["torch._dynamo", "deepspeed"])]
    return [*(f"finetune_trainer.{name}" for name in names), *others]


if imported := os.environ.get(WARM_ENV):
    # What libraries say of themselves would be in the middle of the driver's lines; a rank prints to a file of its own.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)
    os.close(nowhere)
    for name in imported.split(","):
        with suppress(Exception):  # the rank that needs it says what is wrong with it
            importlib.import_module(name)
