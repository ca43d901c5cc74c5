"""The working tree against an earlier commit: processor time of training and of preparation. Prints a table; ends with 1 if too slow.

    python -m benchmarks.against COMMIT --data ../shared/data [--alternations 10]

Both sides are what their own `benchmarks/` calls "ours", on the same rows and weights, in processes that take turns; the earlier
commit lies in a worktree for as long. A ratio is the earlier side's processor time by this one's, pair by pair: above 1, the working tree
is faster. Of the pairs' ratios the geometric mean is shown with its 95 % interval by Student's t. Its lower end has to be at least 0.97; of
dialogues of 1 to 60 short exchanges, by a model's own template, whose cost is the template's alone, the mean has to be at least 5.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import NormalDist
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.tables import table
from benchmarks.texts import write_rows
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
# What the earlier side may take at least, as a multiple of this one's time: the lower end of the interval, or the mean where more is asked.
LEAST = {"preparation": 0.97, "training step": 0.97, "60 dialogues by ChatML": 0.97, "the same, of short messages": 5.0}
VOCABULARY = 16_384
SHORT = 20  # characters

# Run by each side's Python in its own checkout: the processor time of the steps, without what comes before them.
_STEPS = """
import argparse, json, os, pathlib, sys
import benchmarks.training as training
def steps(rows, step):
    spent = []
    for row in rows:
        before = sum(os.times()[:4])
        step(row)
        spent.append(sum(os.times()[:4]) - before)
    return {"cpu_seconds": sum(spent[training.WARM_UP:])}
training._steps = steps
options = argparse.Namespace(threads=os.cpu_count())
print(json.dumps(training.ours(pathlib.Path(sys.argv[1]), options)))
"""

# Dialogues of 1 to 60 exchanges by the model's own template, each as long as it is: the processor time of encoding them, nothing else.
_DIALOGUES = """
import json, os, pathlib, sys
from finetune_api.finetunejob import TemplateSpec
try:
    from finetune_trainer.data.dialogues import Dialogue, Message
    from finetune_trainer.preparation.labels import Encoder
    from finetune_trainer.templates.registry import template_from_spec
    from finetune_trainer.templates.tokenizer import read_tokenizer
except ImportError:  # as it was at 038631c
    from finetune_trainer.dialogues import Dialogue, Message
    from finetune_trainer.labels import Encoder
    from finetune_trainer.template import template_from_spec
    from finetune_trainer.tokenizer_files import read_tokenizer
texts = json.loads((pathlib.Path(sys.argv[1]) / "texts.json").read_text())
dialogues, at = [], 0
for exchanges in range(1, 61):
    messages = [Message(role=("user", "assistant")[i % 2], content=texts[(at + i) % len(texts)]) for i in range(2 * exchanges)]
    at += 2 * exchanges
    dialogues.append(Dialogue(source="x", row=exchanges, tree=str(exchanges), messages=tuple(messages)))
files = read_tokenizer(pathlib.Path(sys.argv[1]))
encoder = Encoder(files.tokenizer, template_from_spec(TemplateSpec(name="model"), files))
before = sum(os.times()[:4])
encoded = encoder.encode(dialogues)
spent = sum(os.times()[:4]) - before
print(json.dumps({"cpu_seconds": spent, "tokens": sum(len(each.examples[0].input_ids) for each in encoded)}))
"""

_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def main() -> int:
    """The exit code."""
    options = _options()
    with TemporaryDirectory() as temporary, checkout(options.commit, Path(temporary, "earlier")) as earlier:
        folder = Path(temporary)
        rows = [_measured(name, earlier, folder, options) for name in LEAST]
    print(table(["", f"CPU s at {options.commit}", "CPU s now", "earlier / now", "95 % interval", "enough"], rows))
    return 1 if any("**" in row[-1] for row in rows) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("commit", help="what the working tree is compared with")
    parser.add_argument("--data", default=os.environ.get("FINETUNE_TEST_DATA", "../shared/data"), help="folder with the real data")
    parser.add_argument("--alternations", type=int, default=10, help="pairs of measurements")
    parser.add_argument("--steps", type=int, default=4, help="measured training steps of each process")
    return parser.parse_args()


@contextmanager
def checkout(commit: str, folder: Path) -> Iterator[Path]:
    """The tree of a commit, in a new folder, for as long as the block runs."""
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def _measured(name: str, earlier: Path, folder: Path, options: argparse.Namespace) -> list[str]:
    """A row of the table."""
    measure = {"preparation": _preparation, "training step": _training}.get(name, _dialogues)
    inputs, data = folder / name.replace(" ", "-"), Path(options.data).resolve()
    inputs.mkdir()
    _make_inputs(name, inputs, data, options)
    pairs: list[tuple[float, float]] = []
    for turn in range(options.alternations):
        sides = [(0, earlier), (1, ROOT)] if turn % 2 == 0 else [(1, ROOT), (0, earlier)]
        spent = {side: measure(checkout, inputs, data, f"{turn}-{side}") for side, checkout in sides}
        pairs.append((spent[0], spent[1]))
        print(f"{name}, pair {turn + 1}: {spent[0]:.2f} s and {spent[1]:.2f} s", file=sys.stderr, flush=True)
    ratio, low, high = interval([before / now for before, now in pairs])
    medians = [f"{statistics.median(side):.2f}" for side in zip(*pairs, strict=True)]
    least = LEAST[name]
    is_enough = (ratio if least > 1 else low) >= least
    return [name, *medians, f"{ratio:.3f}", f"{low:.3f} to {high:.3f}", f"at least {least}: {'yes' if is_enough else '**no**'}"]


def _make_inputs(name: str, folder: Path, data: Path, options: argparse.Namespace) -> None:
    """What both sides read."""
    if name == "preparation":
        write_rows(data, folder)
    elif name == "training step":
        sizes = ["--vocabulary", str(VOCABULARY), "--steps", str(options.steps), "--threads", str(os.cpu_count())]
        command = ["-m", "benchmarks.training", "--worker", "inputs", "--folder", str(folder), "--data", str(data), *sizes]
        _output(ROOT, command)
    else:
        _write_dialogues(data, folder, short="short" in name)


def _write_dialogues(data: Path, folder: Path, *, short: bool) -> None:
    """Messages of OpenAssistant, or their first words; and StarCoder's tokenizer with the control tokens and the template of ChatML."""
    lines = (data / "oasst1_en_trees.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [text[:SHORT] if short else text for line in lines for text in _texts(json.loads(line)["prompt"])]
    (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    tokenizer = Tokenizer.from_file(str(data / "starcoder-tokenizer.json"))
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|im_end|>", "chat_template": _CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def _texts(message: dict[str, Any]) -> Iterator[str]:
    """Of a message and of its replies, depth first."""
    yield message["text"]
    for reply in message["replies"]:
        yield from _texts(reply)


def _dialogues(checkout: Path, inputs: Path, data: Path, run: str) -> float:
    return float(_output(checkout, ["-c", _DIALOGUES, str(inputs)])["cpu_seconds"])


def _preparation(checkout: Path, inputs: Path, data: Path, run: str) -> float:
    own = inputs / run
    own.mkdir()
    found = _output(checkout, ["-m", "benchmarks.preparation", "--worker", "ours", "--folder", str(own), "--data", str(data)])
    return float(found["cpu_seconds"])


def _training(checkout: Path, inputs: Path, data: Path, run: str) -> float:
    return float(_output(checkout, ["-c", _STEPS, str(inputs)])["cpu_seconds"])


def _output(checkout: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """The JSON object in the last line that this Python prints in a checkout, with that checkout's source."""
    paths = os.pathsep.join(str(checkout / name) for name in ("operator", "trainer", "."))
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": str(os.cpu_count())}
    environment = {**os.environ, **quiet, "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, *arguments], cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{checkout}: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def interval(ratios: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """The geometric mean of ratios, and the interval in which the true one lies with that confidence.

    >>> [round(number, 3) for number in interval([1.0, 1.1, 0.9, 1.05, 0.95])]
    [0.997, 0.904, 1.1]
    """
    logarithms = [math.log(ratio) for ratio in ratios]
    mean, error = statistics.mean(logarithms), statistics.stdev(logarithms) / math.sqrt(len(ratios))
    reach = students_t(len(ratios) - 1, confidence) * error
    return math.exp(mean), math.exp(mean - reach), math.exp(mean + reach)


def students_t(freedom: int, confidence: float = 0.95) -> float:
    """The two-sided quantile of Student's t, by its expansion around the normal one (Abramowitz and Stegun 26.7.5).

    >>> [round(students_t(freedom), 2) for freedom in (9, 19, 29)]
    [2.26, 2.09, 2.05]
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))


if __name__ == "__main__":
    sys.exit(main())
