"""Small benchmarks in the forms that users have them in, and small models to ask: what tests of evaluation share. All of it ours."""

import gzip
import json
from pathlib import Path
from typing import Any

from tests.exported_models import LLAMA, ModelWeights, base_folder, source_model, training_run

from finetune_trainer.publishing.export import export
from finetune_trainer.run_folder import RunFolder

OLD_VOCABULARY = 833
THINGS = ("a kettle", "an anchor", "a comb", "a ladder", "a lantern", "a whisk")
USES = ("boiling water", "holding a boat", "parting hair", "reaching a roof", "lighting a path", "beating eggs")
WINDOW = 1024


def arc_rows(number: int) -> list[dict[str, Any]]:
    """OLMo's rendered requests: each document once for every choice, and again without its question."""
    rows = []
    for index in range(number):
        gold = index % 4
        choices = [USES[(index + offset) % len(USES)] for offset in range(4)]
        query = f"Question: What is {THINGS[(index + gold) % len(THINGS)]} number {index} for?\nAnswer:"
        document = {"id": f"Q{index}", "query": query, "choices": choices, "gold": gold}
        requests = [{"context": context, "continuation": f" {choice}"} for context in (query, "Answer:") for choice in choices]
        rows += [{"request_type": "loglikelihood", "doc": document, "request": request, "doc_id": index} for request in requests]
    return rows


def hellaswag_rows(number: int) -> list[dict[str, Any]]:
    """The Hub's columns."""
    return [
        {
            "ind": index,
            "activity_label": "Making tea",
            "ctx_a": f"Somebody takes {THINGS[index % len(THINGS)]} from the shelf.",
            "ctx_b": "then somebody",
            "endings": [f"uses it for {use}." for use in USES[:4]],
            "label": str(index % 4),
        }
        for index in range(number)
    ]


def mmlu_rows(number: int) -> list[dict[str, Any]]:
    """The Hub's columns."""
    return [
        {"question": f"What is {thing} for? ({index})", "subject": "any", "choices": list(USES[:4]), "answer": index % 4}
        for index, thing in zip(range(number), THINGS * number, strict=False)
    ]


TRUTHFULQA = """Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source
Adversarial,Kitchen,Does a watched kettle boil?,"Yes, as fast as any","Yes, as fast as any; It boils",No; It never boils;It waits,ours
Adversarial,Sea,Are anchors light?,They are heavy,They are heavy,They float; They are light,ours
Adversarial,Hair,Do combs cut?,Combs part hair,Combs part hair; They do not cut,Combs cut hair,ours
"""


def write_benchmarks(folder: Path) -> Path:
    """All four: rendered, on the Hub's Parquet, as Arrow of `datasets`, and as CSV."""
    import pyarrow
    import pyarrow.parquet

    (folder / "mmlu").mkdir(parents=True)
    (folder / "hellaswag/data").mkdir(parents=True)
    for split, number in (("train", 30), ("test", 7)):
        with gzip.open(folder / f"olmo_arc_challenge_{split}_rc_5shot.jsonl.gz", "wt") as file:
            file.writelines(f"{json.dumps(row)}\n" for row in arc_rows(number))
    for split, number in (("train", 12), ("validation", 5)):
        table = pyarrow.Table.from_pylist(hellaswag_rows(number))
        pyarrow.parquet.write_table(table, folder / f"hellaswag/data/{split}-00000-of-00001.parquet")
    for subject in ("anatomy", "high_school_computer_science"):
        for split, number in (("dev", 5), ("test", 6)):
            table = pyarrow.Table.from_pylist(mmlu_rows(number))
            with pyarrow.ipc.new_stream(folder / f"mmlu/{subject}_{split}.arrow", table.schema) as writer:
                writer.write_table(table)
    (folder / "TruthfulQA.csv").write_text(TRUTHFULQA)
    return folder


def base_model(folder: Path, *, window: int = WINDOW, seed: int = 7) -> Path:
    """A random model without a chat template, as other people's folders are."""
    base = base_folder(folder, "llama")
    (base / "config.json").write_text(json.dumps({**LLAMA, "max_position_embeddings": window}))
    settings = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": window}))
    source_model(base, rows=OLD_VOCABULARY, seed=seed).save_pretrained(base)
    return base


def tuned_run(folder: Path, base: Path, dialogues: Path | None = None, *, seed: int = 8) -> Path:
    """A run folder whose exported model has a recorded template; trained, so it says, on `dialogues`."""
    source = {} if dialogues is None else {"dataset": {"sources": [{"path": str(dialogues)}]}}
    run = training_run(base, **source)
    folder.mkdir()
    RunFolder(folder).freeze(run, base.parent)
    export(run, ModelWeights(source_model(base, rows=OLD_VOCABULARY + 4, seed=seed)), step=3, base=base, folder=folder / "model")
    return folder
