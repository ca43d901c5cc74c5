"""Training steps measured against TRL's SFTTrainer and the Transformers Trainer on the same packed rows. Prints one JSON object.

    python -m benchmarks.training --data ../shared/data --peers VENV/bin/python [--vocabularies 16384 49152] [--steps 8]

A random Llama (4 layers, 256 wide), fp32 on the CPU, AdamW, one row of up to 2,048 tokens a step. All sides start from the same
weights, take the same rows in the same order with the same number of threads, and train; a step lasts from the end of the one before
it to its own end. The reference trains with plain Transformers on one dialogue at a time, where nothing can be packed wrongly:
its losses are what the others' have to be. Every side is a process of its own.

Nobody but us has more than dense masks for packed rows on a CPU: FlashAttention and the varlen kernels, which peers use on a GPU,
do not exist there. Both peers know where dialogues begin from position ids, and mask with them.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.machine import Clock, least_disturbed, measured

if TYPE_CHECKING:
    import torch

CAPACITY = 2048
SUPERVISED = 0.49  # share of tokens
WARM_UP = 2
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.1
BETAS = (0.9, 0.95)
EPSILON = 1e-8
CLIPPING = 1.0
SEED = 0
LLAMA = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": CAPACITY,
    "tie_word_embeddings": False,
}


def main() -> None:
    options = _options()
    if options.worker:
        print(json.dumps(_WORKERS[options.worker](Path(options.folder), options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(options, Path(folder)), indent=1))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All sides at each vocabulary."""
    results: dict[str, Any] = {
        "llama": LLAMA,
        "capacity": CAPACITY,
        "threads": options.threads,
        "steps": options.steps,
        "warm_up": WARM_UP,
        "vocabularies": {},
    }
    for vocabulary in options.vocabularies:
        its_folder = folder / str(vocabulary)
        its_folder.mkdir()
        results["rows"] = _worker("inputs", its_folder, options, vocabulary)
        results["vocabularies"][str(vocabulary)] = {side: _worker(side, its_folder, options, vocabulary) for side in _SIDES}
    return results


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--data", default=os.environ.get("FINETUNE_TEST_DATA", "../shared/data"), help="folder with the real data")
    parser.add_argument("--peers", default=".venv-benchmarks/bin/python", help="Python of an environment with TRL")
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[16_384, 49_152], help="tokens in the vocabulary")
    parser.add_argument("--steps", type=int, default=8, help=f"measured steps, after {WARM_UP} to warm up")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of torch, for all sides")
    parser.add_argument("--wait", type=float, default=30.0, help="seconds to wait at most for a quiet machine, before each measurement")
    parser.add_argument("--worker", choices=_WORKERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--vocabulary", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _worker(what: str, folder: Path, options: argparse.Namespace, vocabulary: int) -> dict[str, Any]:
    python = options.peers if what in ("trl", "transformers") else sys.executable
    command = [python, "-m", "benchmarks.training", "--worker", what, "--folder", str(folder), "--data", str(options.data)]
    sizes = ["--vocabulary", str(vocabulary), "--steps", str(options.steps), "--threads", str(options.threads)]
    environment = {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if what == "inputs":
        return measured([*command, *sizes], environment)
    return least_disturbed(f"{what}, vocabulary {vocabulary}", lambda _: measured([*command, *sizes], environment), options.wait)


Spent = dict[str, float | int]  # what a Clock reads


@dataclass(frozen=True, slots=True)
class Row:
    """Dialogues packed in one row: ids and unshifted labels of each."""

    ids: list[list[int]]
    labels: list[list[int]]

    @property
    def lengths(self) -> list[int]:
        return [len(ids) for ids in self.ids]

    @property
    def flat_ids(self) -> list[int]:
        return list(chain.from_iterable(self.ids))

    @property
    def flat_labels(self) -> list[int]:
        """The first token of a dialogue is predicted by nothing; in a packed row it would be by the dialogue before it."""
        return [label for labels in self.labels for label in (-100, *labels[1:])]

    @property
    def num_supervised(self) -> int:
        return sum(label != -100 for label in self.flat_labels)


def _rows(folder: Path) -> list[Row]:
    return [Row(**row) for row in json.loads((folder / "rows.json").read_text())]


def inputs(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """model/ with random weights, and rows.json: real dialogues, packed and ordered as our trainer does.

    Ids are taken modulo the vocabulary; of the answers some are not learnt, so that supervised tokens are as many as in mixed chat data.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    config = LlamaConfig(vocab_size=options.vocabulary, pad_token_id=0, bos_token_id=None, eos_token_id=None, **LLAMA)
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    rows = _packed_dialogues(Path(options.data), folder, options.vocabulary, WARM_UP + options.steps)
    _leave_out_answers(rows)
    (folder / "rows.json").write_text(json.dumps([{"ids": row.ids, "labels": row.labels} for row in rows]))
    lengths = [length for row in rows for length in row.lengths]
    return {
        "rows": len(rows),
        "tokens": sum(lengths),
        "dialogues": len(lengths),
        "longest": max(lengths),
        "supervised_share": sum(row.num_supervised for row in rows) / sum(lengths),
        "attention_share": sum(length**2 for length in lengths) / sum(sum(row.lengths) ** 2 for row in rows),
    }


def _packed_dialogues(data: Path, folder: Path, vocabulary: int, count: int) -> list[Row]:
    from finetune_api.finetunejob import FineTuneJob
    from finetune_trainer.preparation.packing import pack
    from finetune_trainer.preparation.prepare import prepare
    from finetune_trainer.preparation.store import PreparedData
    from finetune_trainer.secrets import Secrets
    from finetune_trainer.training.batches import BatchPlan

    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_bytes((data / "starcoder-tokenizer.json").read_bytes())
    job = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "benchmark"},
        "spec": {
            "model": {"name": str(tokenizer)},
            "dataset": {"sources": [{"path": str((data / "oasst1_en_trees.jsonl").resolve()), "format": "oasst"}], "processes": 1},
            "template": {"name": "no_system", "systemTurn": False},
            "training": {"maxSequenceLength": CAPACITY},
        },
    }
    found = prepare(FineTuneJob.model_validate(job), base=folder, model_folder=tokenizer, folder=folder / "store", secrets=Secrets())
    examples = PreparedData.open(found.folder, "train")
    packing, counts = pack(examples.lengths, CAPACITY), examples.supervised_counts
    batches = BatchPlan(examples=examples, packing=packing, supervised_counts=counts, global_batch_size=1, seed=SEED)
    assert batches.packing.num_rows >= count, f"the data gives {batches.packing.num_rows} rows, {count} are needed"
    rows = []
    for step in range(count):
        chosen = [index for row in batches.rows_of_step(step).tolist() for index in batches.packing.row(row).tolist()]
        ids = [(examples.ids(index) % vocabulary).tolist() for index in chosen]
        learnt = [examples.supervised(index).tolist() for index in chosen]
        labels = [[i if use else -100 for i, use in zip(*pair, strict=True)] for pair in zip(ids, learnt, strict=True)]
        rows.append(Row(ids=ids, labels=labels))
    return rows


def _leave_out_answers(rows: list[Row]) -> None:
    """Unlearn random answers until no more than SUPERVISED of all tokens are learnt."""
    answers = [(labels, *span) for row in rows for labels in row.labels for span in _spans(labels)]
    random.Random(SEED).shuffle(answers)
    learnt, most = sum(stop - start for _, start, stop in answers), SUPERVISED * sum(sum(row.lengths) for row in rows)
    for labels, start, stop in answers:
        if learnt > most:
            labels[start:stop] = [-100] * (stop - start)
            learnt -= stop - start


def _spans(labels: list[int]) -> Iterator[tuple[int, int]]:
    """(start, stop) of each run of labels that count."""
    for counts, run in groupby(range(len(labels)), lambda index: labels[index] != -100):
        if counts:
            indices = list(run)
            yield indices[0], indices[-1] + 1


def ours(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The engine that `finetune run` trains with where there is one worker: torch alone, packed attention, the loss head."""
    import torch

    from finetune_api.finetunejob import Optimizer, Training
    from finetune_trainer.model.build import build_model
    from finetune_trainer.model.trial import choose_method
    from finetune_trainer.training.batches import micro_batch
    from finetune_trainer.training.engine import DTYPES
    from finetune_trainer.training.plain_engine import PlainEngine

    torch.set_num_threads(options.threads)
    training = Training(
        micro_batch_size=1,
        global_batch_size=1,
        activation_checkpointing=False,
        optimizer=Optimizer(
            learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            beta1=BETAS[0],
            beta2=BETAS[1],
            epsilon=EPSILON,
            gradient_clipping=CLIPPING,
        ),
    )
    model = build_model(
        folder / "model", initialization="pretrained", seed=SEED, dropout=0.0, vocabulary_size=0, dtype=DTYPES["fp32"], reads=True
    )
    engine = PlainEngine(model, training, method=choose_method(folder / "model", training))

    def step(row: Row) -> float:
        batch = micro_batch(_InMemory(row), range(len(row.ids)))
        return engine.train_step([batch], num_supervised=batch.num_supervised, learning_rate=LEARNING_RATE).loss

    return _steps(_rows(folder), step)


class _InMemory:
    """A row as `batches.Examples`."""

    def __init__(self, row: Row) -> None:
        import numpy as np

        self.lengths = np.array(row.lengths)
        self.supervised_counts = np.array([sum(label != -100 for label in labels[1:]) for labels in row.labels])
        self._ids = [np.array(ids) for ids in row.ids]
        self._labels = [np.array(labels) for labels in row.labels]

    def ids(self, index: int) -> Any:
        return self._ids[index]

    def labels(self, index: int) -> Any:
        return self._labels[index]


def reference(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Plain Transformers and torch, a dialogue at a time, gradients added up over the row."""
    import torch

    torch.set_num_threads(options.threads)
    model = _plain_model(folder).train()
    decayed = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    others = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, eps=EPSILON, fused=True)

    def step(row: Row) -> float:
        total = 0.0
        for ids, labels in zip(row.ids, row.labels, strict=True):
            if all(label == -100 for label in labels[1:]):
                continue
            mean = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
            loss = mean * sum(label != -100 for label in labels[1:]) / row.num_supervised
            loss.backward()
            total += float(loss.detach())
        _clip(list(model.parameters()))
        optimizer.step()
        optimizer.zero_grad()
        return total

    return _steps(_rows(folder), step)


def _clip(parameters: "list[torch.nn.Parameter]") -> None:
    """Clipping by a norm that is summed in fp64: torch's, in fp32, is off by 5e-5 here, and every later loss with it."""
    import torch

    norms = [torch.linalg.vector_norm(one.grad, dtype=torch.float64) for one in parameters if one.grad is not None]
    norm = float(torch.stack(norms).norm())
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(min(1.0, CLIPPING / (norm + 1e-6)))  # as torch and DeepSpeed do


def _steps(rows: list[Row], step: Callable[[Row], float]) -> dict[str, Any]:
    losses, spent = [], []
    for row in rows:
        clock = Clock()
        losses.append(step(row))
        spent.append(clock.read())
    return _summary(rows, losses, spent)


def transformers(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The Transformers Trainer on flattened rows with position ids, from which its mask keeps dialogues apart."""
    import torch
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

    class Recorded(Trainer):  # type: ignore[misc]
        def compute_loss(self, *arguments: Any, **named: Any) -> Any:
            loss = super().compute_loss(*arguments, **named)
            losses.append(float(loss.detach()))
            return loss

    losses: list[float] = []
    torch.set_num_threads(options.threads)
    rows = _rows(folder)
    data = Dataset.from_list(
        [
            {"input_ids": row.flat_ids, "labels": row.flat_labels, "position_ids": [i for length in row.lengths for i in range(length)]}
            for row in rows
        ]
    )
    arguments = TrainingArguments(**_peer_settings(folder / "transformers", len(rows)))
    trainer = Recorded(model=_plain_model(folder), args=arguments, train_dataset=data)
    return _summary(rows, losses, _timed(trainer))


def trl(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """SFTTrainer as it trains what it packed by best fit: padding-free rows, its fused head, masks from position ids."""
    import torch
    from datasets import Dataset
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]

    class Recorded(SFTTrainer):  # type: ignore[misc]
        def compute_loss(self, *arguments: Any, **named: Any) -> Any:
            loss = super().compute_loss(*arguments, **named)
            losses.append(float(loss.detach()))
            return loss

    losses: list[float] = []
    torch.set_num_threads(options.threads)
    rows = _rows(folder)
    data = Dataset.from_list([{"input_ids": row.flat_ids, "labels": row.flat_labels, "seq_lengths": row.lengths} for row in rows])
    words = Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    settings = SFTConfig(
        **_peer_settings(folder / "trl", len(rows)),
        bf16=False,
        max_length=CAPACITY,
        packing=True,
        packing_strategy="bfd",
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = Recorded(model=_plain_model(folder), args=settings, train_dataset=data, processing_class=tokenizer)
    return _summary(rows, losses, _timed(trainer))


def _plain_model(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation="sdpa")


def _peer_settings(output: Path, steps: int) -> dict[str, Any]:
    """What both peers' trainers are told; everything else as it is by default."""
    return {
        "output_dir": str(output),
        "max_steps": steps,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": False,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "adam_beta1": BETAS[0],
        "adam_beta2": BETAS[1],
        "adam_epsilon": EPSILON,
        "weight_decay": WEIGHT_DECAY,
        "max_grad_norm": CLIPPING,
        "train_sampling_strategy": "sequential",
        "use_cpu": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "report_to": [],
        "seed": SEED,
    }


def _timed(trainer: Any) -> list[Spent]:
    """Train; what each step took, from the end of the one before it."""
    from transformers import TrainerCallback

    class Steps(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.clock = Clock()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            spent.append(self.clock.read())
            self.clock = Clock()

    spent: list[Spent] = []
    trainer.add_callback(Steps())
    trainer.train()
    return spent


def _summary(rows: list[Row], losses: list[float], spent: list[Spent]) -> dict[str, Any]:
    """Tokens per second: the median over the measured steps, the slowest and the fastest. Processor time: of all of them together."""
    assert len(rows) == len(losses) == len(spent), "one loss and one time for each row"
    speeds = [sum(row.lengths) / one["seconds"] for row, one in zip(rows, spent, strict=True)][WARM_UP:]
    return {
        "cpu_seconds": round(sum(one["cpu_seconds"] for one in spent[WARM_UP:]), 2),
        "tokens_per_second": round(statistics.median(speeds)),
        "slowest": round(min(speeds)),
        "fastest": round(max(speeds)),
        "peak_memory_mib": Clock().read()["peak_memory_mib"],
        "losses": losses,
    }


_SIDES = {"ours": ours, "trl": trl, "transformers": transformers, "reference": reference}
_WORKERS: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {"inputs": inputs, **_SIDES}

if __name__ == "__main__":
    main()
