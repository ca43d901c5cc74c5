"""One step of TRL's trainers on what others wrote: a program of its own, that knows nothing of ours.

Arguments: a model's folder, JSON lines with `prompt`, `chosen` and `rejected`, JSON lines with `input_ids` and `labels`, a folder to work
in, and where to write what was seen as JSON. A step's learning rate is so high that its weights must differ afterwards.
"""

import json
import sys
from typing import Any

SETTINGS: dict[str, Any] = {
    "max_steps": 1,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "lr_scheduler_type": "constant",
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
    "seed": 1,
}


def preference_step(folder: str, rows: str, place: str) -> dict[str, Any]:
    """DPO: its loss before any step is ln 2, for the model is its own reference."""
    from datasets import load_dataset
    from trl import DPOConfig, DPOTrainer

    dataset = load_dataset("json", data_files=rows, split="train", cache_dir=f"{place}/cache")
    trainer = DPOTrainer(model=folder, args=DPOConfig(output_dir=f"{place}/dpo", **SETTINGS), train_dataset=dataset)
    first = trainer.train_dataset[0]
    return {**_step(trainer), "rows": len(dataset), **{name: list(first[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids")}}


def supervised_step(folder: str, rows: str, place: str) -> dict[str, Any]:
    """SFT on rows that are tokenised already."""
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    dataset = load_dataset("json", data_files=rows, split="train", cache_dir=f"{place}/cache")
    trainer = SFTTrainer(model=folder, args=SFTConfig(output_dir=f"{place}/sft", **SETTINGS), train_dataset=dataset)
    batch = next(iter(trainer.get_train_dataloader()))
    return {**_step(trainer), "supervised": int((batch["labels"] != -100).sum())}


def _step(trainer: Any) -> dict[str, Any]:
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    changed = sum(not parameter.equal(before[name]) for name, parameter in trainer.model.named_parameters())
    [loss] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"steps": trainer.state.global_step, "loss": loss, "changed": changed, "parameters": len(before)}


def main() -> None:
    """See above."""
    import trl

    folder, preferences, tokens, place, written = sys.argv[1:]
    found = {
        "version": trl.__version__,
        "preference": preference_step(folder, preferences, place),
        "supervised": supervised_step(folder, tokens, place),
    }
    with open(written, "w", encoding="utf-8") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main()
