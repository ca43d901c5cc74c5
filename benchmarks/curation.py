"""Curation measured against `datasets`: rows read, measured, filtered and written; with languages and near-duplicates too.

    python -m benchmarks.curation --data ../shared/data [--rows 1000000] [--repeats 1] [--keep FOLDER] [--page docs/benchmarks.md]

The input is dialogues put together from stretches of 5 to 40 words of the OpenAssistant trees of `--data`, one in twenty of them an earlier
one with a word more. Both sides check the order of turns, trim a last question without answer, count turns, roles and characters, leave
out rows by turns and characters, and write JSON lines; `full` asks for English and leaves out near-duplicates too, by the same libraries.
Every measurement is one process in a folder of its own; sides take turns, and of its repeats the one with the median time is reported.
Prints one JSON object.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.assistant_document import curation_section
from benchmarks.machine import Clock, least_disturbed, measured
from benchmarks.sections import Kept, provenance, with_section

KINDS = ("plain", "full")
SIDES = ("ours", "datasets")
LEAST_TURNS, MOST_CHARACTERS = 2, 20_000
THRESHOLD = 0.8
PACKAGES = ["finetune-operator", "datasets", "datasketch", "py3langid"]
_TWINS = 0.05
_BYTES_A_ROW = 10_000  # of the disk: the file, what `datasets` keeps of each step, and what is written
_TAKES = "As it is it takes some 25 minutes on two quiet cores (estimated) and 10 GB of disk; `--rows 2000` tries all of it in 10 seconds."


def main() -> None:
    options = _options()
    if options.worker:
        print(json.dumps(_WORKERS[options.worker](Path(options.folder), options.kind)))
        return
    with tempfile.TemporaryDirectory() as folder:
        if (free := shutil.disk_usage(folder).free) < options.rows * _BYTES_A_ROW:
            wanted = options.rows * _BYTES_A_ROW / 1e9
            sys.exit(
                f"{wanted:.0f} GB are needed in {folder}, where {free / 1e9:.0f} are free: name another folder by TMPDIR, or fewer --rows"
            )
        found = measure(options, Path(folder))
    print(json.dumps(found, indent=1))
    if options.page:
        options.page.write_text(with_section(options.page.read_text(encoding="utf-8"), curation_section(found)), encoding="utf-8")


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both sides on one file, plain and full. `ratios`: how many times faster than `datasets`, by time for the same file."""
    kept = Kept(options.keep, {"rows": options.rows})

    @cache
    def rows() -> int:
        """Bytes of the file, which is written when a measurement needs it."""
        write_rows(Path(options.data), options.rows, folder / "rows.jsonl")
        return (folder / "rows.jsonl").stat().st_size

    def run(side: str, kind: str, repeat: int) -> dict[str, Any]:
        return {"bytes": rows(), **_measured(side, kind, options, folder / f"{side}-{kind}-{repeat}")}

    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for repeat, kind, side in product(range(options.repeats), options.kinds, SIDES):
        runs.setdefault((kind, side), []).append(kept(f"{side}-{kind}-{repeat}", partial(run, side, kind, repeat)))
    results: dict[str, Any] = {"rows": options.rows, "repeats": options.repeats, **provenance(PACKAGES)}
    for (kind, side), its_runs in runs.items():
        results.setdefault(kind, {})[side] = _median(its_runs, options.ratios_of)
    for kind in options.kinds:
        found = results[kind]
        found["ratio"] = found["datasets"][options.ratios_of] / found["ours"][options.ratios_of]
        results["bytes"] = found["ours"]["bytes"]
    return results


def _median(runs: list[dict[str, Any]], by: str) -> dict[str, Any]:
    """The run with the median time, and the times of all."""
    ordered = sorted(runs, key=lambda run: float(run[by]))
    return {**ordered[(len(ordered) - 1) // 2], f"all_{by}": [run[by] for run in runs]}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None, epilog=_TAKES)
    parser.add_argument("--data", default=os.environ.get("FINETUNE_TEST_DATA", "../shared/data"), help="folder with the real data")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=1, help="measurements of each kind")
    parser.add_argument("--wait", type=float, default=30.0, help="seconds to wait at most for a quiet machine, before each measurement")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument(
        "--ratios-of", choices=["seconds", "cpu_seconds"], default="seconds", help="processor time where the machine is busy"
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep each measurement there, and take those that are kept")
    parser.add_argument("--page", type=Path, help="file whose section about curation is written anew")
    parser.add_argument("--peers", help="not used: the peer is a library that we use, too")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def _measured(side: str, kind: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run one side in a process of its own; its rows are in the folder above its own."""
    command = [sys.executable, "-m", "benchmarks.curation", "--worker", side, "--kind", kind]

    def measure(attempt: int) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}-", dir=folder.parent) as own:
            return measured([*command, "--folder", own])

    return least_disturbed(f"{side}, {kind}", measure, options.wait)


def write_rows(data: Path, rows: int, path: Path) -> None:
    """Dialogues of one to three exchanges, 1,500 characters in the mean."""
    texts = _texts(data / "oasst1_en_trees.jsonl")
    drawn = random.Random(0)
    recent: list[list[dict[str, str]]] = []
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            if recent and drawn.random() < _TWINS:
                earlier = drawn.choice(recent)
                messages = [*earlier[:-1], {**earlier[-1], "content": f"{earlier[-1]['content']} {number}"}]
            else:
                turns = 2 * drawn.choice((1, 1, 2, 2, 3))
                messages = [{"role": ("user", "assistant")[turn % 2], "content": _message(texts, drawn, turn)} for turn in range(turns)]
                recent = [*recent[-999:], messages]
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")


def _message(texts: list[list[str]], drawn: random.Random, turn: int) -> str:
    """Stretches of texts: few for a question, more for an answer."""
    found: list[str] = []
    for _ in range(drawn.randint(1, 2) if turn % 2 == 0 else drawn.randint(3, 7)):
        words = drawn.choice(texts)
        start = drawn.randrange(len(words))
        found += words[start : start + drawn.randint(5, 40)]
    return " ".join(found)


def _texts(trees: Path) -> list[list[str]]:
    """The words of all messages, with their line breaks."""
    found: list[list[str]] = []
    for line in trees.read_text(encoding="utf-8").splitlines():
        stack = [json.loads(line)["prompt"]]
        while stack:
            node = stack.pop()
            found.append(node["text"].split(" "))
            stack += node.get("replies") or []
    return found


def ours(folder: Path, kind: str) -> dict[str, Any]:
    """`finetune data export --html`, as it is typed: statistics of what it writes, in one pass."""
    from finetune_cli.app import main as finetune

    clock = Clock()
    choices = ["--min-turns", str(LEAST_TURNS), "--max-characters", str(MOST_CHARACTERS)]
    choices += ["--language", "en", "--similarity", str(THRESHOLD)] if kind == "full" else []
    output = folder / "rows.jsonl"
    rows, page = str(folder.parent / "rows.jsonl"), str(folder / "page.html")
    stdout, sys.stdout = sys.stdout, sys.stderr
    code = finetune(["data", "export", rows, "--format", "messages", "--output", str(output), "--html", page, *choices])
    sys.stdout = stdout
    assert code == 0
    return {**clock.read(), "written": _lines(output)}


def peer(folder: Path, kind: str) -> dict[str, Any]:
    """load_dataset, map, filter, counters over columns, to_json: what a user of the library writes."""
    import datasets

    datasets.disable_caching()
    datasets.disable_progress_bars()
    clock = Clock()
    rows = datasets.load_dataset("json", data_files=str(folder.parent / "rows.jsonl"), split="train", cache_dir=str(folder / "cache"))
    rows = rows.map(_examined).filter(_is_wanted, input_columns=["wrong", "turns", "characters"])
    if kind == "full":
        rows = rows.map(_told, with_indices=True).filter(lambda language: language == "en", input_columns=["language"])
        rows = _without_near_duplicates(rows)
    described = {name: Counter(rows[name]) for name in ("turns", "characters", "answer_characters")}
    roles = Counter(role for batch in rows.select_columns("roles").iter(1000) for row in batch["roles"] for role in row)
    output = folder / "rows.jsonl"
    rows.select_columns("messages").to_json(output, force_ascii=False)
    return {**clock.read(), "written": _lines(output), "described": len(described), "messages": roles.total()}


def _examined(row: dict[str, Any]) -> dict[str, Any]:
    messages = row["messages"]
    wrong = any(
        message["role"] != ("user", "assistant")[index % 2] or not message["content"].strip() for index, message in enumerate(messages)
    )
    messages = messages if len(messages) % 2 == 0 else messages[:-1]
    lengths = [len(message["content"]) for message in messages]
    roles = [message["role"] for message in messages]
    answers = sum(lengths[1::2])
    found = {"turns": len(messages), "characters": sum(lengths), "answer_characters": answers, "roles": roles}
    return {"messages": messages, "wrong": wrong, **found}


def _is_wanted(wrong: bool, turns: int, characters: int) -> bool:
    return not wrong and turns >= LEAST_TURNS and characters <= MOST_CHARACTERS


def _told(row: dict[str, Any], index: int) -> dict[str, Any]:
    import py3langid
    from datasketch import MinHash

    text = "\n".join(message["content"] for message in row["messages"])
    words = text.lower().split()
    minhash = MinHash(num_perm=128)
    minhash.update_batch([" ".join(words[start : start + 5]).encode() for start in range(max(1, len(words) - 4))])
    return {"language": py3langid.classify(text)[0], "signature": minhash.hashvalues, "index": index}


def _without_near_duplicates(rows: Any) -> Any:
    import numpy as np
    from datasketch import MinHash, MinHashLSH

    index, kept = MinHashLSH(threshold=THRESHOLD, num_perm=128), []
    first = MinHash(num_perm=128)
    for number, signature in enumerate(row for batch in rows.select_columns("signature").iter(1000) for row in batch["signature"]):
        values = np.array(signature, np.uint32)
        minhash = MinHash(hashvalues=values, permutations=first.permutations, scheme=first.scheme)
        if not index.query(minhash):
            index.insert(number, minhash)
            kept.append(number)
    return rows.select(kept)


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


_WORKERS = {"ours": ours, "datasets": peer}

if __name__ == "__main__":
    main()
