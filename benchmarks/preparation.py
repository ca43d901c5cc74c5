"""Preparation measured against TRL: read, template, tokenise, labels, pack. Prints one JSON object.

    python benchmarks/preparation.py --data ../shared/data [--tokens 5000000] [--trl-python VENV/bin/python] [--only ours|trl|packing]

The input is the OpenAssistant trees of `--data`, linearised to `messages` rows and repeated to the number of tokens; both sides
read the same file and use the same tokenizer file. Each repetition carries its number in the first user message, so that nothing is
the same twice. Every measurement is a process of its own; its peak memory is that of the process and its children. TRL runs in an
environment of its own (`pip install trl==1.16.* datasets transformers torch`), given by --trl-python or $FINETUNE_TRL_PYTHON.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MAX_LENGTH = 1024
CONTROL_TOKENS = ["<|system|>", "<|assistant|>", "<|user|>", "<|end|>"]


def main() -> None:
    options = _options()
    if options.worker:
        print(json.dumps(_WORKERS[options.worker](options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        results: dict[str, Any] = {"tokens_asked": options.tokens, "cores": os.cpu_count()}
        if options.only in (None, "packing"):
            results["packing"] = _measure("packing", options, folder, 1)
        if options.only != "packing":
            rows = write_rows(Path(options.data), options.tokens, Path(folder))
            results["rows"] = rows
        for side in ("ours", "trl"):
            if options.only in (None, side) and (side == "ours" or options.trl_python):
                results[side] = {f"processes_{count}": _measure(side, options, folder, count) for count in (1, 2)}
        if "ours" in results and "trl" in results:
            results["times_trl"] = {key: _speed(value) / _speed(results["trl"][key]) for key, value in results["ours"].items()}
    print(json.dumps(results, indent=1))


def _speed(result: dict[str, Any]) -> float:
    return float(result["tokens_per_second"])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--data", default=os.environ.get("FINETUNE_TEST_DATA", "../shared/data"), help="folder with the real data")
    parser.add_argument("--tokens", type=int, default=5_000_000)
    parser.add_argument("--trl-python", default=os.environ.get("FINETUNE_TRL_PYTHON"), help="Python of an environment with TRL")
    parser.add_argument("--only", choices=["ours", "trl", "packing"])
    parser.add_argument("--worker", choices=["ours", "trl", "packing"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, default=1, help=argparse.SUPPRESS)
    return parser.parse_args()


def _measure(what: str, options: argparse.Namespace, folder: str, processes: int) -> dict[str, Any]:
    """Run one side in a process of its own."""
    python = options.trl_python if what == "trl" else sys.executable
    command = [python, __file__, "--worker", what, "--folder", folder, "--processes", str(processes), "--data", str(options.data)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def write_rows(data: Path, tokens: int, folder: Path) -> int:
    """rows.jsonl: the dialogues of the trees again and again until there are so many tokens; the number of rows."""
    from tokenizers import Tokenizer

    from finetune_api.finetunejob import DataSource
    from finetune_trainer.dialogues import Dialogue, parse
    from finetune_trainer.secrets import Secrets
    from finetune_trainer.sources import read

    source = DataSource(name=str((data / "oasst1_en_trees.jsonl").resolve()), format="oasst")
    found = parse(read(source, "train", base=Path(), secrets=Secrets()), source)
    dialogues = [[{"role": m.role, "content": m.content} for m in each.messages] for each in found if isinstance(each, Dialogue)]
    tokenizer = Tokenizer.from_file(str(data / "starcoder-tokenizer.json"))
    once = sum(len(tokenizer.encode(message["content"]).ids) + 4 for each in dialogues for message in each)
    repetitions = -(-tokens // once)
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for repetition in range(repetitions):
            for first, *rest in dialogues:
                numbered = {**first, "content": f"({repetition}) {first['content']}"}
                file.write(json.dumps({"messages": [numbered, *rest]}, ensure_ascii=False) + "\n")
    return repetitions * len(dialogues)


def ours(options: argparse.Namespace) -> dict[str, Any]:
    """`prepare` as `finetune run` calls it, from the file to the store and the packed rows."""
    from finetune_api.finetunejob import FineTuneJob
    from finetune_trainer.preparation import prepare
    from finetune_trainer.secrets import Secrets

    folder = Path(options.folder)
    model = folder / "model"
    model.mkdir(exist_ok=True)
    (model / "tokenizer.json").write_bytes((Path(options.data) / "starcoder-tokenizer.json").read_bytes())
    job = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "benchmark"},
        "spec": {
            "model": {"name": str(model)},
            "dataset": {"sources": [{"name": str(folder / "rows.jsonl"), "format": "messages"}], "processes": options.processes},
            "template": {"name": "no_system", "systemTurn": False},
            "training": {"maxSequenceLength": MAX_LENGTH},
        },
    }
    started = time.perf_counter()
    prepared = prepare(
        FineTuneJob.model_validate(job), base=folder, model_folder=model, folder=folder / f"store-{options.processes}", secrets=Secrets()
    )
    shape = prepared.data_shape.train
    return _result(started, shape.tokens, rows=shape.rows, supervised_tokens=shape.supervised_tokens, threads=os.cpu_count())


def trl(options: argparse.Namespace) -> dict[str, Any]:
    """SFTTrainer's own preparation: chat template with generation marks, assistant-only loss, best-fit packing."""
    import torch
    from datasets import disable_caching, load_dataset
    from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM, PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    disable_caching()
    torch.set_num_threads(1)
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
        output_dir=str(Path(options.folder) / f"trl-{options.processes}"),
        max_length=MAX_LENGTH,
        packing=True,
        packing_strategy="bfd",
        assistant_only_loss=True,
        dataset_num_proc=options.processes if options.processes > 1 else None,
        use_cpu=True,
        bf16=False,
        report_to=[],
    )
    started = time.perf_counter()
    rows = load_dataset(
        "json", data_files=str(Path(options.folder) / "rows.jsonl"), split="train", cache_dir=str(Path(options.folder) / "cache")
    )
    trainer = SFTTrainer(model=model, args=settings, train_dataset=rows, processing_class=tokenizer)
    prepared = trainer.train_dataset
    seconds = time.perf_counter() - started
    tokens = sum(len(row) for batch in prepared.iter(batch_size=1000) for row in batch["input_ids"])
    return _result(started, tokens, seconds=seconds, rows=len(prepared))


def packing(options: argparse.Namespace) -> dict[str, Any]:
    """The plan of a million dialogues whose lengths are spread like OpenAssistant's."""
    import numpy as np

    from finetune_trainer.packing import pack

    lengths = np.clip(np.random.default_rng(0).lognormal(5.6, 0.9, 1_000_000).astype(np.int64), 8, MAX_LENGTH)
    started = time.perf_counter()
    planned = pack(lengths, MAX_LENGTH)
    seconds = time.perf_counter() - started
    return {"dialogues": len(lengths), "seconds": round(seconds, 3), "rows": planned.num_rows, "fill": round(planned.fill, 5)}


def _result(started: float, tokens: int, *, seconds: float | None = None, **more: Any) -> dict[str, Any]:
    """Speed, and the peak memory: of this process, and of the largest of its children."""
    seconds = time.perf_counter() - started if seconds is None else seconds
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "tokens": tokens,
        "seconds": round(seconds, 2),
        "tokens_per_second": round(tokens / seconds),
        "cpu_seconds": round(sum(usage.ru_utime + usage.ru_stime for usage in (own, children)), 2),
        "peak_memory_mib": round(own.ru_maxrss / 1024),
        "largest_child_mib": round(children.ru_maxrss / 1024),
        **more,
    }


_WORKERS = {"ours": ours, "trl": trl, "packing": packing}

if __name__ == "__main__":
    main()
