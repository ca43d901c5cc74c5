"""Every causal language model of the installed Transformers, tried, and docs/models.md from what was found.

python -m benchmarks.models [--output docs/models.md] [--only llama,mamba]

Each family's own default config stands for it, or the settings below where the default can't be built. What is tried is what a job tries
before it trains (`finetune_trainer.model.trial`): loss and gradients of a small random copy. Each in a process of its own, with a limit.
"""

import argparse
import datetime
import importlib
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.tables import table
from tests.families.page import section

SECONDS = 120

# What default configs leave out, as small as it can be.
SETTINGS: dict[str, dict[str, Any]] = {
    "dots1": {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "n_shared_experts": 1},
    "deepseek_v2": {"num_experts_per_tok": 6, "n_group": 1, "topk_group": 1, "q_lora_rank": None},
    "granitemoehybrid": {"layer_types": ["mamba"] * 5 + ["attention"] + ["mamba"] * 26, "num_local_experts": 0},
    "lfm2": {"layer_types": ["conv", "conv", "full_attention"] * 10 + ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention", "conv"] * 8},
    "minimax_m3_vl_text": {"layer_types": ["full_attention"] * 3 + ["minimax_m3_sparse"] * 57},
    "bert": {"is_decoder": True},
    "roberta": {"is_decoder": True},
}

# Families that tests train on two ranks, export, and load with plain Transformers (tests/trainer/training).
WITH_ZERO3 = {
    "gpt_bigcode", "llama", "deepseek_v3", "gemma4_text", "ernie4_5_moe", "gpt_oss", "gemma2", "cohere", "granite", "llama4_text", "phi3",
    "mamba", "stablelm", "qwen3_next",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Try every causal language model of Transformers and write docs/models.md")
    parser.add_argument("--output", default="docs/models.md")
    parser.add_argument("--only", default="", help="families by model_type, separated by commas")
    options = parser.parse_args()
    importlib.import_module("finetune_trainer.model.trial")  # once, before processes fork
    rows = []
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for row in threads.map(_in_a_process, [name for name in options.only.split(",") if name] or families()):
            print(row["family"], row["verdict"], row["why"], file=sys.stderr, flush=True)
            rows.append(row)
    output = Path(options.output)
    kept = section(output.read_text(encoding="utf-8")) if output.is_file() else ""
    output.write_text(document(rows) + (f"\n{kept}" if kept else ""), encoding="utf-8")


def families() -> list[str]:
    """By model_type: those whose class generates text from text alone."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if _architecture(name).endswith(("ForCausalLM", "LMHeadModel")))


def _architecture(family: str) -> str:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family]
    return name if isinstance(name, str) else name[0]


def _in_a_process(family: str) -> dict[str, Any]:
    """What `tried` finds; a process that takes too long, or dies, is a finding too. Forked: libraries are imported once."""
    found = {"family": family, "architecture": _architecture(family), "planner": ""}
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=lambda: there.send(tried(family)))
    process.start()
    there.close()
    try:
        answered = here.poll(SECONDS)
        return {**found, **here.recv()} if answered else {**found, "verdict": "not tried", "why": f"takes more than {SECONDS} seconds here"}
    except EOFError:
        return {**found, "verdict": "not tried", "why": "its default config can't be built"}
    finally:
        process.kill()
        process.join()


def tried(family: str) -> dict[str, Any]:
    """How a family is trained, or why it isn't, and how far the contract's formula is from the model's own parameters."""
    import torch
    from transformers import AutoConfig
    from transformers.utils import logging

    from finetune_api.errors import InvalidModel
    from finetune_trainer.model.trial import method_for

    torch.set_num_threads(1)
    logging.set_verbosity_error()
    try:
        config = AutoConfig.for_model(family, **SETTINGS.get(family, {}))
        if config.get_text_config() is not config:
            return {
                "verdict": "refused",
                "why": "describes more than text; its text part is tried instead",
            }
        config.architectures = [_architecture(family)]
        planner = _planner_error(config)
        try:
            method = method_for(config, longest=4096)
        except InvalidModel as error:
            if "activation checkpointing" not in str(error):
                raise
            method = method_for(config, longest=4096, checkpointing=False)
            return {"verdict": _word(method), "why": "needs `activationCheckpointing: false`", "planner": planner}
        return {"verdict": _word(method), "why": _reason(method), "planner": planner}
    except InvalidModel as error:
        why = str(error).removesuffix("; use another architecture").removeprefix(f"{_architecture(family)} ")
        return {"verdict": "not tried" if "small copy" in why else "refused", "why": why}


def _word(method: Any) -> str:
    return "packed" if method.packed else "unpacked"


def _reason(method: Any) -> str:
    if not method.packed:
        return str(method.why_unpacked)
    return "" if method.logits is not None else "makes its own logits, of a whole micro-batch"


def _planner_error(config: Any) -> str:
    """Of the contract's formulas against the model, built without memory; other families are counted on the model itself."""
    from finetune_api.model_shape import can_count, shape_from_config
    from finetune_trainer.model.counting import counted_shape

    values = config.to_dict() | {"architectures": config.architectures}
    counted = counted_shape(values, config.architectures[0], "config.json").parameters
    if not can_count(values):
        return "counted"
    return f"{shape_from_config(values).parameters / counted - 1:.1%}"


_PAGE = """# Models

Written by `python -m benchmarks.models` on {date}, with {libraries}, on a CPU.

Before a job trains, a small random copy of its model is computed in several ways and compared with eager attention, one dialogue at a
time: the loss and every gradient. The first way that agrees is taken.

- **packed** ({packed}): dialogues share a row and never see one another.
- **unpacked** ({unpacked}): one dialogue a call, as right and slower; the job says how many calls an epoch has.
- **refused** ({refused}): no way is right, and the reason is said before training.
- **not tried** ({untried}): the default config that stands for the family can't be built, or takes too long; a model of your own is tried
  when its job begins.

A row is the family's default config; another config of it may have other kinds of layers, and is tried as it is. ZeRO-3: trained by the
tests on two ranks, exported, and loaded by plain Transformers with equal logits. Planner: how far the number of parameters by formula is
from the model's; *counted* means that there is no formula, and the model itself is counted without memory.

{table}
"""


def document(rows: list[dict[str, Any]]) -> str:
    """The page."""
    verdicts = [row["verdict"] for row in rows]
    return _PAGE.format(
        date=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        libraries=", ".join(f"{name} {version(name)}" for name in ("transformers", "torch")),
        packed=verdicts.count("packed"),
        unpacked=verdicts.count("unpacked"),
        refused=verdicts.count("refused"),
        untried=verdicts.count("not tried"),
        table=table(["family", "architecture", "trained", "ZeRO-3 tried", "planner", "remark"], _cells(rows)),
    )


def _cells(rows: list[dict[str, Any]]) -> Iterator[list[str]]:
    for row in rows:
        why = " ".join(row["why"].split()).replace("|", "/")
        tested = "yes" if row["family"] in WITH_ZERO3 else ""
        yield [f"`{row['family']}`", row["architecture"], row["verdict"], tested, row["planner"], why[:200]]


if __name__ == "__main__":
    main()
