"""Preparation measured against TRL: read, template, tokenise, labels, pack. Prints one JSON object.

    python -m benchmarks.preparation --data ../shared/data --peers VENV/bin/python [--tokens 5000000] [--repeats 3]

The input is the OpenAssistant trees of `--data`, linearised to `messages` rows and repeated to the number of tokens; both sides
read the same file and use the same tokenizer file. Each repetition carries its number in the first user message, so that no
dialogue is the same twice. A second file holds words that no other repetition has, because our side remembers words, which text
that repeats itself flatters. Every measurement is a process of its own in a folder of its own; sides take turns, and of its
repeats the one with the median time is reported.
"""

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from itertools import count, product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from benchmarks.machine import Clock, least_disturbed, measured

MAX_LENGTH = 1024
CONTROL_TOKENS = ["<|system|>", "<|assistant|>", "<|user|>", "<|end|>"]
# Share of words that are new in text of this size which does not repeat itself: an estimate, see docs/benchmarks.md.
NEW_WORDS = 0.1
PROCESSES = (1, 2)


def main() -> None:
    options = _options()
    if options.worker:
        print(json.dumps(_WORKERS[options.worker](options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(options, Path(folder)), indent=1))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All measurements. `repeated` is the text again and again, `new_words` the same with a share of words never seen before."""
    return {
        "packing": _measured("packing", options, folder / "packing", 1),
        "repeated": _corpus(options, folder / "repeated", 0.0),
        "new_words": {**_corpus(options, folder / "new-words", NEW_WORDS), "share": NEW_WORDS},
    }


def _corpus(options: argparse.Namespace, folder: Path, new_words: float) -> dict[str, Any]:
    """Both sides on one file, with one process and with two. `ratios`: how many times faster than TRL, by time for the same file."""
    folder.mkdir()
    rows = write_rows(Path(options.data), options.tokens, folder, new_words)
    sides = ("ours", "trl") if options.peers else ("ours",)
    runs: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for repeat, processes, side in product(range(options.repeats), PROCESSES, sides):
        runs.setdefault((side, processes), []).append(_measured(side, options, folder / f"{side}-{processes}-{repeat}", processes))
    results: dict[str, Any] = {"rows": rows}
    for (side, processes), its_runs in runs.items():
        results.setdefault(side, {})[str(processes)] = _median(its_runs)
    if "trl" in results:
        results["ratios"] = {key: results["trl"][key]["seconds"] / ours["seconds"] for key, ours in results["ours"].items()}
    return results


def _median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The run with the median time, and the times of all."""
    ordered = sorted(runs, key=lambda run: float(run["seconds"]))
    return {**ordered[(len(ordered) - 1) // 2], "all_seconds": [run["seconds"] for run in runs]}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--data", default=os.environ.get("FINETUNE_TEST_DATA", "../shared/data"), help="folder with the real data")
    parser.add_argument("--tokens", type=int, default=5_000_000)
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each kind")
    parser.add_argument("--wait", type=float, default=30.0, help="seconds to wait at most for a quiet machine, before each measurement")
    parser.add_argument("--peers", help="Python of an environment with TRL; without it only our side is measured")
    parser.add_argument("--worker", choices=["ours", "trl", "packing"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, default=1, help=argparse.SUPPRESS)
    return parser.parse_args()


def _measured(what: str, options: argparse.Namespace, folder: Path, processes: int) -> dict[str, Any]:
    """Run one side in a process of its own; its rows are in the folder above its own."""
    python = options.peers if what == "trl" else sys.executable
    command = [python, "-m", "benchmarks.preparation", "--worker", what, "--processes", str(processes), "--data", str(options.data)]

    def measure(attempt: int) -> dict[str, Any]:
        own = folder.with_name(f"{folder.name}-{attempt}")
        own.mkdir()
        return measured([*command, "--folder", str(own)])

    return least_disturbed(f"{what}, processes: {processes}", measure, options.wait)


def write_rows(data: Path, tokens: int, folder: Path, new_words: float) -> int:
    """rows.jsonl: the dialogues of the trees again and again until there are so many tokens; the number of rows."""
    from tokenizers import Tokenizer

    from finetune_api.finetunejob import DataSource
    from finetune_trainer.data.dialogues import Dialogue
    from finetune_trainer.data.parsing import parse
    from finetune_trainer.data.sources import read
    from finetune_trainer.secrets import Secrets

    source = DataSource(path=str((data / "oasst1_en_trees.jsonl").resolve()), format="oasst")
    found = parse(read(source, "train", base=Path(), secrets=Secrets()), source)
    dialogues = [[{"role": m.role, "content": m.content} for m in each.messages] for each in found if isinstance(each, Dialogue)]
    tokenizer = Tokenizer.from_file(str(data / "starcoder-tokenizer.json"))
    once = sum(len(tokenizer.encode(message["content"]).ids) + 4 for each in dialogues for message in each)
    repetitions = -(-tokens // once)
    drawn, endings = random.Random(0), _endings()
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for repetition in range(repetitions):
            for dialogue in dialogues:
                first, *rest = [{**m, "content": _renewed(m["content"], new_words, drawn, endings)} for m in dialogue]
                numbered = {**first, "content": f"({repetition}) {first['content']}"}
                file.write(json.dumps({"messages": [numbered, *rest]}, ensure_ascii=False) + "\n")
    return repetitions * len(dialogues)


def _renewed(text: str, share: float, drawn: random.Random, endings: Iterator[str]) -> str:
    """The text with a share of its words made new by an ending that no other word has."""
    if share == 0.0:
        return text
    return " ".join(word + next(endings) if drawn.random() < share else word for word in text.split(" "))


def _endings() -> Iterator[str]:
    """baa, bab, ...: letters, all different."""
    for number in count(1):
        letters = ""
        while number:
            number, letter = divmod(number, len(ascii_lowercase))
            letters = ascii_lowercase[letter] + letters
        yield letters.rjust(3, "a")


def ours(options: argparse.Namespace) -> dict[str, Any]:
    """`prepare` as `finetune run` calls it, from the file to the store and the packed rows."""
    from finetune_api.finetunejob import FineTuneJob
    from finetune_trainer.preparation.prepare import prepare
    from finetune_trainer.secrets import Secrets

    folder = Path(options.folder)
    model = folder / "model"
    model.mkdir()
    (model / "tokenizer.json").write_bytes((Path(options.data) / "starcoder-tokenizer.json").read_bytes())
    job = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "benchmark"},
        "spec": {
            "model": {"name": str(model)},
            "dataset": {"sources": [{"path": str(folder.parent / "rows.jsonl"), "format": "messages"}], "processes": options.processes},
            "template": {"name": "no_system", "systemTurn": False},
            "training": {"maxSequenceLength": MAX_LENGTH},
        },
    }
    clock = Clock()
    prepared = prepare(FineTuneJob.model_validate(job), base=folder, model_folder=model, folder=folder / "store", secrets=Secrets())
    shape = prepared.data_shape.train
    return {**clock.read(), "tokens": shape.tokens, "supervised_tokens": shape.supervised_tokens, "rows": shape.rows}


def trl(options: argparse.Namespace) -> dict[str, Any]:
    """SFTTrainer's own preparation: chat template with generation marks, assistant-only loss, best-fit packing."""
    import torch
    from datasets import disable_caching, load_dataset
    from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM, PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]

    disable_caching()
    torch.set_num_threads(1)
    folder = Path(options.folder)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(Path(options.data) / "starcoder-tokenizer.json"), eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": CONTROL_TOKENS})
    tokenizer.chat_template = (
        "{%- for m in messages -%}{%- if m['role'] == 'assistant' -%}{{- '<|assistant|>\\n' -}}"
        "{%- generation -%}{{- m['content'] + '<|end|>' -}}{%- endgeneration -%}{{- '\\n' -}}"
        "{%- else -%}{{- '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' -}}{%- endif -%}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}"
    )
    model = GPTBigCodeForCausalLM(GPTBigCodeConfig(vocab_size=len(tokenizer), n_positions=MAX_LENGTH, n_embd=8, n_layer=1, n_head=1))
    settings = SFTConfig(
        output_dir=str(folder / "output"),
        max_length=MAX_LENGTH,
        packing=True,
        packing_strategy="bfd",
        assistant_only_loss=True,
        dataset_num_proc=options.processes if options.processes > 1 else None,
        use_cpu=True,
        bf16=False,
        report_to=[],
    )
    clock = Clock()
    rows = load_dataset("json", data_files=str(folder.parent / "rows.jsonl"), split="train", cache_dir=str(folder / "cache"))
    trainer = SFTTrainer(model=model, args=settings, train_dataset=rows, processing_class=tokenizer)
    spent = clock.read()
    tokens = supervised = 0
    for batch in trainer.train_dataset.iter(batch_size=1000):
        tokens += sum(len(row) for row in batch["input_ids"])
        supervised += sum(label != -100 for row in batch["labels"] for label in row)
    return {**spent, "tokens": tokens, "supervised_tokens": supervised, "rows": len(trainer.train_dataset)}


def packing(options: argparse.Namespace) -> dict[str, Any]:
    """The plan of a million dialogues whose lengths are spread like OpenAssistant's."""
    import numpy as np

    from finetune_trainer.preparation.packing import pack

    lengths = np.clip(np.random.default_rng(0).lognormal(5.6, 0.9, 1_000_000).astype(np.int64), 8, MAX_LENGTH)
    clock = Clock()
    planned = pack(lengths, MAX_LENGTH)
    return {**clock.read(), "dialogues": len(lengths), "rows": planned.num_rows, "fill": round(planned.fill, 5)}


_WORKERS = {"ours": ours, "trl": trl, "packing": packing}

if __name__ == "__main__":
    main()
