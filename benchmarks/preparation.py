"""Preparation measured against TRL, and against the tokenizer alone, on text that is read once. Prints one JSON object.

    python -m benchmarks.preparation --data ../shared/data --peers VENV/bin/python [--repeats 3] [--keep FOLDER] [--dialogues 100]

Against TRL: one file with both corpora of `texts`, StarCoder's tokenizer, from the file to packed rows with labels, with one process and
with two. Against the tokenizer: what a template makes of each corpus is encoded by `encode_batch`, which finds offsets, and by
`encode_batch_fast`, which doesn't, with the ids taken out, and nothing else; ours goes from the file to the store. There neither side's
reading of its tokenizer counts. Every measurement is a process of its own in a folder of its own; sides take turns, and of its repeats the
one with the median time is reported.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.machine import Clock, least_disturbed, measured
from benchmarks.sections import Kept
from benchmarks.texts import CORPORA, TEMPLATES, write_model, write_rows

MAX_LENGTH = 1024
CONTROL_TOKENS = ["<|system|>", "<|assistant|>", "<|user|>", "<|end|>"]
PROCESSES = (1, 2)
BATCH = 256  # texts, as many as ours encodes at once
ALONE = ("encode_batch", "encode_batch_fast")
_SPENT = ("seconds", "cpu_seconds")


def main() -> None:
    options = _options()
    if options.worker:
        print(json.dumps(_WORKERS[options.worker](options)))
        return
    if not (options.smollm2 / "tokenizer.json").is_file():
        sys.exit(f"no tokenizer.json in {options.smollm2}: make ~/.cache/finetune/smollm2/model.safetensors")
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(options, Path(folder)), indent=1))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All measurements. `ratios`: how many times faster ours is, by the clock and by processor time."""
    kept = Kept(options.keep, {"dialogues": options.dialogues, "python": sys.version})
    packed = folder / "packing"
    packed.mkdir()
    return {
        "repeats": options.repeats,
        "packing": kept("packing", lambda: _measured("packing", options, packed)),
        "trl": _against_trl(options, folder / "trl", kept),
        "tokenizer": {
            vocabulary: {corpus: _against_the_tokenizer(vocabulary, corpus, options, folder, kept) for corpus in CORPORA}
            for vocabulary in TEMPLATES
        },
    }


def _against_trl(options: argparse.Namespace, folder: Path, kept: Kept) -> dict[str, Any]:
    folder.mkdir()
    rows = write_rows(options.data, folder, CORPORA, options.dialogues)
    results: dict[str, Any] = {"rows": rows, "megabytes": (folder / "rows.jsonl").stat().st_size / 1e6}
    for processes in PROCESSES:
        sides = {side: partial(_measured, side, options, folder, "--processes", str(processes)) for side in ("ours", "trl")}
        if not options.peers:
            del sides["trl"]
        results[str(processes)] = _compared(f"trl-{processes}", sides, options.repeats, kept)
    return results


def _against_the_tokenizer(vocabulary: str, corpus: str, options: argparse.Namespace, folder: Path, kept: Kept) -> dict[str, Any]:
    own = folder / f"{vocabulary}-{corpus}"
    own.mkdir()
    write_rows(options.data, own, [corpus], options.dialogues)
    write_model(vocabulary, own / "model", options.data, options.smollm2)
    sides = {side: partial(_measured, side, options, own, "--vocabulary", vocabulary) for side in ("stored", *ALONE)}
    return _compared(f"{vocabulary}-{corpus}", sides, options.repeats, kept)


def _compared(name: str, sides: dict[str, Callable[[], dict[str, Any]]], repeats: int, kept: Kept) -> dict[str, Any]:
    """Sides take turns. `ratios`: the median of each other side by that of the first one."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for repeat, (side, measure) in product(range(repeats), sides.items()):
        runs[side].append(kept(f"{name}-{side}-{repeat}", measure))
    found: dict[str, Any] = {side: _median(its_runs) for side, its_runs in runs.items()}
    ours, *others = sides
    found["ratios"] = {side: {kind: found[side][kind] / max(found[ours][kind], 0.001) for kind in _SPENT} for side in others}
    return found


def _median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The run with the median time, with the median of processor time, and the times of all."""
    ordered = sorted(runs, key=lambda run: float(run["seconds"]))
    processor = sorted(float(run["cpu_seconds"]) for run in runs)
    middle = (len(ordered) - 1) // 2
    return {**ordered[middle], "cpu_seconds": processor[middle], "all_seconds": [run["seconds"] for run in runs]}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0] if __doc__ else None,
        epilog="As it is it takes some 8 minutes on two quiet cores (estimated); `--dialogues 100 --repeats 1` tries all of it in two.",
    )
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("FINETUNE_TEST_DATA", "../shared/data"), help="folder with the real data"
    )
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser.add_argument("--smollm2", type=Path, default=cache / "finetune" / "smollm2", help="folder with SmolLM2's tokenizer")
    parser.add_argument("--dialogues", type=int, help="of each corpus at most")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each kind")
    parser.add_argument("--wait", type=float, default=30.0, help="seconds to wait at most for a quiet machine, before each measurement")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep each measurement there, and take those that are kept")
    parser.add_argument("--peers", help="Python of an environment with TRL; without it TRL is not measured")
    parser.add_argument("--worker", choices=list(_WORKERS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--vocabulary", help=argparse.SUPPRESS)
    return parser.parse_args()


def _measured(what: str, options: argparse.Namespace, folder: Path, *more: str) -> dict[str, Any]:
    """Run one side in a process of its own; its rows and its model are in the folder above its own."""
    python = options.peers if what == "trl" else sys.executable
    command = [python, "-m", "benchmarks.preparation", "--worker", what, "--data", str(options.data), *more]

    def measure(attempt: int) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix=f"{what}-", dir=folder) as own:
            return measured([*command, "--folder", own])

    return least_disturbed(" ".join([what, *more]), measure, options.wait)


def ours(options: argparse.Namespace) -> dict[str, Any]:
    """`prepare` as `finetune run` calls it, from the file to the store and the packed rows."""
    from finetune_trainer.preparation.prepare import prepare
    from finetune_trainer.secrets import Secrets

    folder = options.folder
    write_model("StarCoder", folder / "model", options.data, options.smollm2)
    clock = Clock()
    job = _job(folder.parent / "rows.jsonl", folder / "model", TEMPLATES["StarCoder"], options.processes)
    prepared = prepare(job, base=folder, model_folder=folder / "model", folder=folder / "store", secrets=Secrets())
    shape = prepared.data_shape.train
    return {**clock.read(), "tokens": shape.tokens, "supervised_tokens": shape.supervised_tokens, "rows": shape.rows}


def stored(options: argparse.Namespace) -> dict[str, Any]:
    """`prepare` without its first part, which reads the tokenizer and tries the template."""
    from finetune_trainer.preparation.prepare import find_data, tokenise
    from finetune_trainer.secrets import Secrets

    folder, model = options.folder, options.folder.parent / "model"
    job = _job(folder.parent / "rows.jsonl", model, TEMPLATES[options.vocabulary], 1)
    found = find_data(job, base=folder, model_folder=model, secrets=Secrets())
    clock = Clock()
    prepared = tokenise(found, folder / "store", lambda event: None)
    return {**clock.read(), "tokens": prepared.data_shape.train.tokens}


def alone(options: argparse.Namespace, call: str) -> dict[str, Any]:
    """The tokenizer's own call on the same texts, and the ids of each."""
    from tokenizers import Tokenizer

    from finetune_api.finetunejob import TemplateSpec
    from finetune_trainer.data.dialogues import Message
    from finetune_trainer.templates.registry import add_control_tokens, template_from_spec
    from finetune_trainer.templates.tokenizer import read_tokenizer

    files = read_tokenizer(options.folder.parent / "model")
    tokenizer: Tokenizer = files.tokenizer
    template = add_control_tokens(tokenizer, template_from_spec(TemplateSpec.model_validate(TEMPLATES[options.vocabulary]), files))
    lines = (options.folder.parent / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [template.render([Message(**message) for message in json.loads(line)["messages"]]) for line in lines]
    tokenizer.encode("some text")  # what it makes at its first call
    clock = Clock()
    tokens = 0
    for start in range(0, len(texts), BATCH):
        tokens += sum(len(each.ids) for each in getattr(tokenizer, call)(texts[start : start + BATCH], add_special_tokens=False))
    return {**clock.read(), "tokens": tokens}


def _job(rows: Path, model: Path, template: dict[str, Any], processes: int) -> Any:
    from finetune_api.finetunejob import FineTuneJob

    return FineTuneJob.model_validate(
        {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": "benchmark"},
            "spec": {
                "model": {"name": str(model)},
                "dataset": {"sources": [{"path": str(rows), "format": "messages"}], "processes": processes},
                "template": template,
                "training": {"maxSequenceLength": MAX_LENGTH},
            },
        }
    )


def trl(options: argparse.Namespace) -> dict[str, Any]:
    """SFTTrainer's own preparation: chat template with generation marks, assistant-only loss, best-fit packing."""
    import torch
    from datasets import disable_caching, load_dataset
    from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM, PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]

    disable_caching()
    torch.set_num_threads(1)
    folder = options.folder
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(options.data / "starcoder-tokenizer.json"), eos_token="<|endoftext|>", pad_token="<|endoftext|>"
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


_WORKERS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "ours": ours,
    "trl": trl,
    "stored": stored,
    **{call: partial(alone, call=call) for call in ALONE},
    "packing": packing,
}

if __name__ == "__main__":
    main()
