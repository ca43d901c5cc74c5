"""docs/benchmarks.md as a function of what was measured: the same figures give the same text. Its words are in document.md.j2."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.assistant_document import curation_section, evaluation_section, generation_section
from benchmarks.machine import MOST_OTHERS
from benchmarks.operator_document import operator_section
from benchmarks.tables import others, table
from jinja2 import Environment, StrictUndefined

SECTIONS = ("preparation", "training", "generation", "curation", "evaluation", "operator")
FLOORS = {"1": 3.0, "2": 2.4}  # times TRL, by processes
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
    repeated, new_words = found["repeated"], found["new_words"]
    return {
        "tokens": f"{repeated['ours']['1']['tokens'] / 1e6:.1f}",
        "rows": f"{repeated['rows']:,}",
        "repeats": len(repeated["ours"]["1"]["all_seconds"]),
        "goals": _goals(repeated, found["packing"]),
        "repeated": _preparation_table(repeated),
        "cpu": {key: _times(trl["cpu_seconds"] / repeated["ours"][key]["cpu_seconds"]) for key, trl in repeated["trl"].items()},
        "second_idle": repeated["ours"]["2"]["largest_child_mib"] == 0,
        "new_share": f"{new_words['share']:.0%}",
        "new_words": _preparation_table(new_words),
        "new_ratios": {key: _times(ratio) for key, ratio in new_words["ratios"].items()},
    }


def _goals(found: dict[str, Any], packing: dict[str, Any]) -> str:
    """Each floor of preparation beside what was measured."""
    memory = max(_memory(run, int(processes)) for processes, run in found["ours"].items())
    rows = [
        *(
            [f"TRL's time / ours, processes: {processes}", f"at least {floor:g}x", _times(found["ratios"][processes])]
            for processes, floor in FLOORS.items()
        ),
        ["peak memory", f"below {MOST_MEMORY_MIB:,} MiB", f"{memory:,} MiB"],
        [f"packing plan of {packing['dialogues']:,} dialogues", f"at most {MOST_PACKING_SECONDS:g} s", f"{packing['seconds']:.2f} s"],
    ]
    met = [
        *(found["ratios"][processes] >= floor for processes, floor in FLOORS.items()),
        memory < MOST_MEMORY_MIB,
        packing["seconds"] <= MOST_PACKING_SECONDS,
    ]
    return table(["", "goal", "measured", ""], [[*row, "met" if one else "**missed**"] for row, one in zip(rows, met, strict=True)])


def _preparation_table(found: dict[str, Any]) -> str:
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
        for processes, run in found[side].items()
    ]
    header = ["", "processes", "seconds", "all runs", "tokens/s", "CPU s", "peak MiB", "tokens", "supervised", "rows", "others"]
    return table(header, rows)


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
