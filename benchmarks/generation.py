"""Chat and `finetune generate` measured against plain Transformers on SmolLM2-135M. Prints one JSON object.

    python -m benchmarks.generation [--model ~/.cache/finetune/smollm2] [--prompts 200] [--repeats 3] [--page docs/benchmarks.md]

`make ~/.cache/finetune/smollm2/model.safetensors` makes the model. Prompts are stretches of this repository's pages, their lengths
log-uniform between 16 and 1,024 tokens; answers are greedy and end at the model's end token, or after 128. Every measurement is a process
of its own with the same number of threads; sides take turns, and of the repeats the one with the median figure is reported.
"""

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.assistant_document import generation_section
from benchmarks.machine import least_disturbed, measured
from benchmarks.sections import Kept, provenance, with_section

ROOT = Path(__file__).resolve().parent.parent
SHORTEST, LONGEST, NEW_TOKENS, TURNS = 16, 1024, 128, 10
PACKAGES = ["finetune-operator", "torch", "transformers"]
QUESTIONS = [
    "What is a list in Python, and when would I use a tuple in its place?",
    "Show me how to reverse one, and say what it costs for a long list.",
    "And how would I sort a list of names by their length, the longest first?",
    "What happens to names of the same length there, and can I rely on it?",
    "Write a function that counts how often each of them occurs in the list.",
    "What would change if the list did not fit into the memory of my machine?",
    "Which mistakes do people make most often when they change a list in a loop?",
    "Give me a short example of one of these mistakes, and then the right way.",
    "How would I test the function that you wrote above, with an empty list too?",
    "Now say all of it again in one sentence for somebody who has never coded.",
]
_TAKES = (
    "As it is it takes some 80 minutes on two quiet cores (estimated); `--prompts 4 --new-tokens 8 --repeats 1` tries all of it in two."
)


def main() -> None:
    options = _options()
    if options.worker:
        print(json.dumps(_WORKERS[options.worker](options)))
        return
    if not (options.model / "model.safetensors").is_file():
        sys.exit(f"no model in {options.model}: make ~/.cache/finetune/smollm2/model.safetensors")
    found = measure(options)
    print(json.dumps(found, indent=1))
    if options.page:
        options.page.write_text(with_section(options.page.read_text(encoding="utf-8"), generation_section(found)), encoding="utf-8")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All measurements; `ratios` are what the targets are about."""
    names = ["turns", "chat", "batch", "file-ours", "file-plain", *(["file-continuous"] if options.continuous else [])]
    settings = {name: getattr(options, name) for name in ("prompts", "batch_size", "new_tokens", "repeats")}
    kept = Kept(options.keep, {**settings, "model": str(options.model)})
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for repeat in range(options.repeats):
        for name in names:
            runs[name].append(kept(f"{name}-{repeat}", lambda name=name: _measured(name, options)))  # type: ignore[misc]
    figure = {"turns": "ratio", "chat": "ratio", "batch": "ratio"}
    found: dict[str, Any] = {name: _median(its, figure.get(name, "seconds")) for name, its in runs.items()}
    found |= {"settings": settings, **provenance(PACKAGES)}
    plain = found["file-plain"]["seconds"]
    found["ratios"] = {
        "turn_10_to_2": found["turns"]["ratio"],
        "chat": found["chat"]["ratio"],
        "batch": found["batch"]["ratio"],
        "file": plain / found["file-ours"]["seconds"],
        **({"continuous": plain / found["file-continuous"]["seconds"]} if options.continuous else {}),
    }
    return found


def _measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.generation", "--worker", name, "--model", str(options.model)]
    command += ["--prompts", str(options.prompts), "--new-tokens", str(options.new_tokens), "--batch-size", str(options.batch_size)]
    return least_disturbed(name, lambda _attempt: measured(command), options.wait)


def _median(runs: list[dict[str, Any]], figure: str) -> dict[str, Any]:
    ordered = sorted(runs, key=lambda run: float(run[figure]))
    return {**ordered[(len(ordered) - 1) // 2], f"all_{figure}": [run[figure] for run in runs]}


def _turns(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds to the first token of each turn, with the history kept; and of the last turn without it."""
    from finetune_assistant.inference.chat import Chat
    from finetune_assistant.inference.own_thread import OwnThread

    thread, sampling = OwnThread(), _greedy(64)
    loaded = thread.run(lambda: _warm(options))
    talk = Chat.of(loaded, sampling=sampling, thread=thread)
    first = [talk.ask(question).first_seconds for question in QUESTIONS[:TURNS]]
    fresh = Chat.of(loaded, sampling=_greedy(1), thread=thread)
    fresh.go_on_with(talk.messages[:-2])
    alone = fresh.ask(QUESTIONS[TURNS - 1])
    return {
        "first_seconds": first,
        "ratio": first[-1] / first[1],
        "fresh_seconds": alone.first_seconds,
        "prompt_tokens": alone.prompt_tokens,
    }


def _chat(options: argparse.Namespace) -> dict[str, Any]:
    """Tokens/s of a streamed answer to that of plain `generate` on the same prompt, in turns, both in the thread that loaded the model."""
    from finetune_assistant.inference.chat import Chat
    from finetune_assistant.inference.own_thread import OwnThread

    thread = OwnThread()
    loaded = thread.run(lambda: _warm(options))
    ids = loaded.prompter.encode(_question(QUESTIONS[4]))

    def ours() -> int:
        return Chat.of(loaded, sampling=_greedy(options.new_tokens), thread=thread).ask(QUESTIONS[4]).new_tokens

    def plain() -> int:
        return thread.run(lambda: sum(_plain(loaded, [ids], options.new_tokens)))

    return _paces(ours, plain)


def _batch(options: argparse.Namespace) -> dict[str, Any]:
    """The same batch by `answers` and by plain `generate`, in turns."""
    from finetune_assistant.inference.generation import Request, answers

    loaded = _warm(options)
    prompts = _prompts(loaded, options.prompts)[: options.batch_size]
    requests = [Request(ids=ids) for ids in prompts]

    def ours() -> int:
        batches = answers(loaded, requests, sampling=_greedy(options.new_tokens), batch_size=options.batch_size)
        return sum(one.new_tokens for batch in batches for one in batch)

    return _paces(ours, lambda: sum(_plain(loaded, prompts, options.new_tokens)))


def _file_ours(options: argparse.Namespace) -> dict[str, Any]:
    from finetune_assistant.inference.generation import Request, answers

    loaded = _warm(options)
    requests = [Request(ids=ids) for ids in _prompts(loaded, options.prompts)]
    began = time.perf_counter()
    batches = answers(loaded, requests, sampling=_greedy(options.new_tokens), batch_size=options.batch_size)
    tokens = sum(one.new_tokens for batch in batches for one in batch)
    return {"seconds": time.perf_counter() - began, "new_tokens": tokens}


def _file_plain(options: argparse.Namespace) -> dict[str, Any]:
    loaded = _warm(options)
    prompts = _prompts(loaded, options.prompts)
    began = time.perf_counter()
    size = options.batch_size
    tokens = sum(sum(_plain(loaded, prompts[start : start + size], options.new_tokens)) for start in range(0, len(prompts), size))
    return {"seconds": time.perf_counter() - began, "new_tokens": tokens}


def _file_continuous(options: argparse.Namespace) -> dict[str, Any]:
    """Transformers' own continuous batching."""
    from transformers import GenerationConfig

    loaded = _warm(options)
    prompts = _prompts(loaded, options.prompts)
    end = loaded.prompter.stop_ids[0]
    config = GenerationConfig(do_sample=False, max_new_tokens=options.new_tokens, eos_token_id=end, pad_token_id=end)
    began = time.perf_counter()
    outputs = loaded.model.generate_batch(inputs=prompts, generation_config=config)
    tokens = sum(len(output.generated_tokens) for output in outputs.values())
    return {"seconds": time.perf_counter() - began, "new_tokens": tokens, "answers": len(outputs)}


def _paces(ours: Callable[[], int], plain: Callable[[], int], rounds: int = 3) -> dict[str, Any]:
    """Tokens/s of both, the median of some rounds in turns."""
    paces: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(rounds):
        for name, side in (("ours", ours), ("plain", plain)):
            began = time.perf_counter()
            tokens = side()
            paces[name].append(tokens / (time.perf_counter() - began))
    found = {name: median(values) for name, values in paces.items()}
    return {**found, "ratio": found["ours"] / found["plain"]}


def _greedy(new_tokens: int) -> Any:
    from finetune_assistant.inference.sampling import Sampling

    return Sampling(greedy=True, max_new_tokens=new_tokens)


def _question(text: str) -> list[Any]:
    from finetune_trainer.data.dialogues import Message

    return [Message(role="user", content=text)]


def _warm(options: argparse.Namespace) -> Any:
    """The model, after what is done once in a process: threads, first allocations."""
    from finetune_assistant.inference.loading import load

    loaded = load(str(options.model))
    _plain(loaded, [loaded.prompter.encode(_question("Hello"))], 4)
    return loaded


def _plain(loaded: Any, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[int]:
    """Plain Transformers, as its documentation has it: tokens of each answer, up to its end."""
    import torch

    end, width = loaded.prompter.stop_ids[0], max(map(len, prompts))
    ids = torch.tensor([[end] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    output = loaded.model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=new_tokens, eos_token_id=end, pad_token_id=end)
    answers = output[:, width:].tolist()
    for answer in answers:
        loaded.prompter.decode(answer)
    return [answer.index(end) + 1 if end in answer else len(answer) for answer in answers]


def _prompts(loaded: Any, count: int) -> list[list[int]]:
    """Questions about stretches of our pages, whose lengths are log-uniform; the same ones each time."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
    words = text.split()
    frame = len(loaded.prompter.encode(_question("What is this about? ")))
    a_word = (len(loaded.prompter.encode(_question(" ".join(words[:2000])))) - frame) / 2000  # in tokens
    draw = random.Random(11)
    found = []
    for _ in range(count):
        wanted = SHORTEST * (LONGEST / SHORTEST) ** draw.random()
        start = draw.randrange(len(words) // 2)
        stretch = words[start : start + max(0, round((wanted - frame) / a_word))]
        found.append(loaded.prompter.encode(_question(" ".join(["What is this about?", *stretch]))))
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None, epilog=_TAKES)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser.add_argument("--model", type=Path, default=cache / "finetune" / "smollm2", help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--prompts", type=int, default=200, help="prompts in the file")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=NEW_TOKENS, help="longest answer")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each kind")
    parser.add_argument("--wait", type=float, default=30.0, help="seconds to wait at most for a quiet machine, before each measurement")
    parser.add_argument("--continuous", action="store_true", help="also Transformers' continuous batching")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep each measurement there, and take those that are kept")
    parser.add_argument("--page", type=Path, help="file whose section about generation is written anew")
    parser.add_argument("--worker", choices=list(_WORKERS), help=argparse.SUPPRESS)
    return parser.parse_args()


_WORKERS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "turns": _turns,
    "chat": _chat,
    "batch": _batch,
    "file-ours": _file_ours,
    "file-plain": _file_plain,
    "file-continuous": _file_continuous,
}

if __name__ == "__main__":
    main()
