"""docs/benchmarks.md as a function of what was measured: the same figures give the same text. Its words are in document.md.j2."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.assistant_document import curation_section, evaluation_section, generation_section
from benchmarks.checkpoints_document import checkpoints_section
from benchmarks.machine import MOST_OTHERS
from benchmarks.operator_document import operator_section
from benchmarks.planner_document import planner_section
from benchmarks.startup_document import startup_section
from benchmarks.tables import others, table
from jinja2 import Environment, StrictUndefined

SECTIONS = ("preparation", "training", "startup", "checkpoints", "planner", "generation", "curation", "evaluation", "operator")
# What is asked of preparation at least, and what it aims at: times TRL, with as many processes, and times the tokenizer alone.
TRL_FLOOR, TRL_GOAL = 2.2, 3.0
TOKENIZER = {"encode_batch": (0.9, 1.0), "encode_batch_fast": (0.7, 0.9)}
MOST_MEMORY_MIB = 1024
MOST_PACKING_SECONDS = 1.0

_SIDES = {
    "ours": "ours",
    "trl": "TRL SFTTrainer",
    "transformers": "Transformers Trainer",
    "reference": "plain Transformers, a dialogue at a time",
}


def document(results: dict[str, Any]) -> str:
    """The whole file. `results`: when and where, versions, and what the benchmarks of SECTIONS print.

    Raises ValueError unless all of them were measured in one run.
    """
    if strange := [name for name in SECTIONS if results[name].get("run") != results["run"]]:
        raise ValueError(f"{', '.join(strange)}: not of this run; measure everything in one: make benchmarks")
    template = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True).from_string(
        Path(__file__).with_name("document.md.j2").read_text(encoding="utf-8")
    )
    return template.render(
        begun=results["begun"],
        ended=results["ended"],
        most_others=f"{MOST_OTHERS:.0%}",
        machine=_machine(results["machine"]),
        versions={side: ", ".join(f"{name} {number}" for name, number in its.items()) for side, its in results["versions"].items()},
        **_preparation(results["preparation"]),
        **_training(results["training"]),
        startup=startup_section(results["startup"]).rstrip(),
        checkpoints=checkpoints_section(results["checkpoints"]).rstrip(),
        planner=planner_section(results["planner"]).rstrip(),
        generation=generation_section(results["generation"]).rstrip(),
        curation=curation_section(results["curation"]).rstrip(),
        evaluation=evaluation_section(results["evaluation"]).rstrip(),
        operator=operator_section(results["operator"]).rstrip(),
        gpu=gpu_section(),
    )


def gpu_section() -> str:
    """What `make test-gpu` printed on a machine that has one, and was kept."""
    return Path(__file__).with_name("gpu.md").read_text(encoding="utf-8").strip()


def _machine(found: dict[str, Any]) -> str:
    cells = [found["processor"], found["cores"], f"{found['memory_gib']} GiB", found["system"], found["python"]]
    return table(["processor", "cores", "memory", "system", "Python"], [cells])


def _preparation(found: dict[str, Any]) -> dict[str, Any]:
    trl = found["trl"]
    by_processes = {key: trl[key] for key in ("1", "2")}
    return {
        "tokens": f"{trl['1']['ours']['tokens'] / 1e6:.1f}",
        "megabytes": f"{trl['megabytes']:.1f}",
        "rows": f"{trl['rows']:,}",
        "repeats": found["repeats"],
        "goals": _goals(by_processes, found["tokenizer"], found["packing"]),
        "beside_trl": _beside_trl(by_processes),
        "second_idle": trl["2"]["ours"]["largest_child_mib"] == 0,
        "beside_tokenizer": _beside_tokenizer(found["tokenizer"]),
    }


def _goals(trl: dict[str, Any], tokenizer: dict[str, Any], packing: dict[str, Any]) -> str:
    """Floors and goals beside what was measured; of the two ratios the lesser counts, of vocabularies and texts the least."""
    rows = [
        _ratio_row(f"TRL's time / ours, processes: {processes}", TRL_FLOOR, TRL_GOAL, [found["ratios"]["trl"]])
        for processes, found in trl.items()
    ]
    for call, (floor, goal) in TOKENIZER.items():
        ratios = [found["ratios"][call] for corpora in tokenizer.values() for found in corpora.values()]
        rows.append(_ratio_row(f"`{call}` / ours, the least of all vocabularies and texts", floor, goal, ratios))
    memory = max(_memory(found["ours"], int(processes)) for processes, found in trl.items())
    seconds = packing["seconds"]
    rows += [
        ["peak memory", "", f"below {MOST_MEMORY_MIB:,} MiB", f"{memory:,} MiB", "", _met(memory < MOST_MEMORY_MIB)],
        [
            f"packing plan of {packing['dialogues']:,} dialogues",
            "",
            f"at most {MOST_PACKING_SECONDS:g} s",
            f"{seconds:.2f} s",
            "",
            _met(seconds <= MOST_PACKING_SECONDS),
        ],
    ]
    return table(["", "floor", "goal", "by the clock", "by CPU s", ""], rows)


def _ratio_row(name: str, floor: float, goal: float, ratios: Sequence[dict[str, float]]) -> list[str]:
    least = {kind: min(each[kind] for each in ratios) for kind in ("seconds", "cpu_seconds")}
    lesser = min(least.values())
    verdict = "goal met" if lesser >= goal else "floor met" if lesser >= floor else "**missed**"
    return [name, f"{floor:g}x", f"{goal:g}x", _times(least["seconds"]), _times(least["cpu_seconds"]), verdict]


def _met(holds: bool) -> str:
    return "goal met" if holds else "**missed**"


def _beside_trl(trl: dict[str, Any]) -> str:
    rows = [
        [
            _SIDES[side],
            processes,
            f"{run['seconds']:.1f}",
            f"{min(run['all_seconds']):.1f} to {max(run['all_seconds']):.1f}",
            f"{run['tokens'] / run['seconds']:,.0f}",
            f"{run['cpu_seconds']:.1f}",
            f"{_memory(run, int(processes)):,}",
            f"{run['tokens']:,}",
            f"{run['supervised_tokens']:,}",
            f"{run['rows']:,}",
            others(run),
        ]
        for side in ("ours", "trl")
        for processes, run in ((key, found[side]) for key, found in trl.items())
    ]
    header = ["", "processes", "seconds", "all runs", "tokens/s", "CPU s", "peak MiB", "tokens", "supervised", "rows", "others"]
    return table(header, rows)


def _beside_tokenizer(found: dict[str, Any]) -> str:
    """Seconds by the clock and of the processor, and how many times longer the tokenizer alone takes."""
    rows = []
    for vocabulary, corpora in found.items():
        for corpus, sides in corpora.items():
            spent = [f"{sides[side]['seconds']:.2f} ({sides[side]['cpu_seconds']:.2f})" for side in ("stored", *TOKENIZER)]
            ratios = [sides["ratios"][call] for call in TOKENIZER]
            times = [f"{_times(ratio['seconds'])} ({_times(ratio['cpu_seconds'])})" for ratio in ratios]
            rows.append([vocabulary, corpus, f"{sides['encode_batch']['tokens']:,}", *spent, *times])
    header = ["vocabulary", "text", "tokens", "ours, seconds (CPU s)"]
    return table([*header, *(f"`{call}`" for call in TOKENIZER), *(f"`{call}` / ours" for call in TOKENIZER)], rows)


def _memory(run: dict[str, Any], processes: int) -> int:
    """The peaks of all processes added up, as if they came at one time. MiB."""
    return int(run["peak_memory_mib"] + (processes if processes > 1 else 0) * run["largest_child_mib"])


def _training(found: dict[str, Any]) -> dict[str, Any]:
    packed = found["rows"]
    return {
        "llama": found["llama"],
        "threads": found["threads"],
        "steps": found["steps"],
        "warm_up": found["warm_up"],
        "packed": {
            "rows": packed["rows"],
            "capacity": f"{found['capacity']:,}",
            "dialogues": packed["dialogues"],
            "longest": f"{packed['longest']:,}",
            "supervised": f"{packed['supervised_share']:.0%}",
            "tokens": f"{packed['tokens']:,}",
            "attention": f"{1 / packed['attention_share']:.1f}",
        },
        "training": [_training_table(int(vocabulary), sides) for vocabulary, sides in found["vocabularies"].items()],
    }


def _training_table(vocabulary: int, sides: dict[str, Any]) -> str:
    ours, right = sides["ours"], sides["reference"]["losses"]
    rows = [
        [
            _SIDES[name],
            f"{side['tokens_per_second']:,}",
            f"{side['slowest']:,} to {side['fastest']:,}",
            "" if name == "ours" else _times(ours["tokens_per_second"] / side["tokens_per_second"]),
            f"{side['cpu_seconds']:.1f}",
            "" if name == "ours" else _times(side["cpu_seconds"] / ours["cpu_seconds"]),
            f"{side['peak_memory_mib']:,}",
            f"{side['losses'][0]:.6f}",
            f"{side['losses'][-1]:.6f}",
            "" if name == "reference" else f"{_difference(side['losses'], right):.0e}",
            others(side),
        ]
        for name, side in sides.items()
    ]
    header = [f"vocabulary {vocabulary:,}", "tokens/s", "slowest to fastest", "ours / this", "CPU s", "this / ours", "peak MiB"]
    return table([*header, "first loss", "last loss", "off by", "others"], rows)


def _difference(losses: Sequence[float], right: Sequence[float]) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(losses, right, strict=True))


def _times(ratio: float) -> str:
    return f"{ratio:.2f}x"
