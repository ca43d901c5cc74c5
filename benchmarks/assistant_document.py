"""The assistant's parts of docs/benchmarks.md as functions of what was measured. Their words are in the .md.j2 files of their names."""

from typing import Any

from benchmarks.sections import goals, rendered, where_and_when
from benchmarks.tables import others, table

MOST_TURN_RATIO = 1.5
LEAST_PACE = {"chat": 0.97, "batch": 0.97, "file": 1.3}
LEAST_CURATION = {"plain": 3.0, "full": 1.0}  # times `datasets`
MOST_CURATION_MIB = {"plain": 1024, "full": 3 * 1024}
MOST_EVALUATION_RATIO = 1.05
LEAST_READ = 160

_KINDS = {"plain": "", "full": ", languages and near-duplicates"}
_SIDES = {"ours": "ours", "datasets": "`datasets`", "lm_eval": "lm-eval's command"}


def generation_section(found: dict[str, Any]) -> str:
    """`found` is what `python -m benchmarks.generation` prints."""
    ratios, turns, count = found["ratios"], found["turns"], found["settings"]["prompts"]
    what = {
        "chat": "tokens/s of a chat / plain `generate`",
        "batch": f"tokens/s of `finetune generate`, a batch of {found['settings']['batch_size']} / plain `generate`",
        "file": f"time of plain `generate` / ours, {count} prompts",
    }
    slow = ratios["turn_10_to_2"]
    return rendered(
        "generation.md.j2",
        {
            "where": where_and_when(found),
            **found["settings"],
            "goals": goals(
                [
                    ("first token of turn 10 / of turn 2", f"at most {MOST_TURN_RATIO:g}x", f"{slow:.2f}x", slow <= MOST_TURN_RATIO),
                    *(
                        (what[key], f"at least {least:g}x", f"{ratios[key]:.3f}x", ratios[key] >= least)
                        for key, least in LEAST_PACE.items()
                    ),
                ]
            ),
            "sides": _paces(found),
            "turns": len(turns["first_seconds"]),
            "first": ", ".join(f"{seconds:.2f}" for seconds in turns["first_seconds"]),
            "fresh": f"{turns['fresh_seconds']:.2f}",
            "prompt_tokens": f"{turns['prompt_tokens']:,}",
        },
    )


def _paces(found: dict[str, Any]) -> str:
    chat, batch, ours, plain = (found[name] for name in ("chat", "batch", "file-ours", "file-plain"))
    rows = [
        ["chat, tokens/s", f"{chat['ours']:.1f}", f"{chat['plain']:.1f}", others(chat)],
        ["a batch, tokens/s", f"{batch['ours']:.1f}", f"{batch['plain']:.1f}", others(batch)],
        ["the file, seconds", f"{ours['seconds']:.0f}", f"{plain['seconds']:.0f}", f"{others(ours)}, {others(plain)}"],
        ["the file, new tokens", f"{ours['new_tokens']:,}", f"{plain['new_tokens']:,}", ""],
    ]
    if "file-continuous" in found:
        by = found["file-continuous"]
        rows.append(["the file by continuous batching, seconds", "", f"{by['seconds']:.0f}", others(by)])
    return table(["", "ours", "plain Transformers", "others"], rows)


def curation_section(found: dict[str, Any]) -> str:
    """`found` is what `python -m benchmarks.curation` prints."""
    kinds = [kind for kind in _KINDS if kind in found]
    rows = []
    for kind in kinds:
        ratio, memory = found[kind]["ratio"], _memory(found[kind]["ours"])
        least, most = LEAST_CURATION[kind], MOST_CURATION_MIB[kind]
        rows += [
            (f"time of `datasets` / ours{_KINDS[kind]}", f"at least {least:g}x", f"{ratio:.2f}x", ratio >= least),
            (f"peak memory{_KINDS[kind]}", f"below {most:,} MiB", f"{memory:,} MiB", memory < most),
        ]
    return rendered(
        "curation.md.j2",
        {
            "where": where_and_when(found),
            "rows": f"{found['rows']:,}",
            "gigabytes": f"{found['bytes'] / 1e9:.1f}",
            "repeats": "One measurement" if found["repeats"] == 1 else f"The median of {found['repeats']} measurements",
            "goals": goals(rows),
            "sides": table(
                ["", "seconds", "dialogues/s", "CPU s", "peak MiB", "written", "others"],
                [
                    _curated(found["rows"], f"{_SIDES[side]}{_KINDS[kind]}", found[kind][side])
                    for kind in kinds
                    for side in ("ours", "datasets")
                ],
            ),
        },
    )


def _curated(rows: int, name: str, run: dict[str, Any]) -> list[str]:
    seconds = run["seconds"]
    cells = [f"{seconds:.0f}", f"{rows / seconds:,.0f}", f"{run['cpu_seconds']:.0f}", f"{_memory(run):,}", f"{run['written']:,}"]
    return [name, *cells, others(run)]


def _memory(run: dict[str, Any]) -> int:
    return int(run["peak_memory_mib"] + run["largest_child_mib"])


def evaluation_section(found: dict[str, Any]) -> str:
    """`found` is what `python -m benchmarks.evaluation` prints."""
    ratio, parser = found["ratio"], found["parser"]
    return rendered(
        "evaluation.md.j2",
        {
            "where": where_and_when(found),
            "limit": found["limit"],
            "tasks": ", ".join(f"`{task}`" for task in found["tasks"].split(",")),
            "repeats": found["repeats"],
            "goals": goals(
                [
                    ("numbers of both", "equal", "equal" if found["equal"] else "not equal", found["equal"]),
                    ("our time / lm-eval's", f"at most {MOST_EVALUATION_RATIO:g}x", f"{ratio:.3f}x", ratio <= MOST_EVALUATION_RATIO),
                    ("odd replies of a judge, read right", f"at least {LEAST_READ}", f"{parser['right']}", parser["right"] >= LEAST_READ),
                    ("the same, read wrong", "none", f"{parser['wrong']}", parser["wrong"] == 0),
                ]
            ),
            "sides": table(
                ["", "seconds", "all runs", "others"],
                [
                    [
                        _SIDES[side],
                        f"{found[side]['seconds']:.1f}",
                        ", ".join(f"{seconds:.1f}" for seconds in found[side]["all_seconds"]),
                        others(found[side]),
                    ]
                    for side in ("ours", "lm_eval")
                ],
            ),
            "numbers": ", ".join(f"{name} {value:.4f}" for name, value in sorted(found["ours"]["numbers"].items())),
            "answers": parser["answers"],
            "parser": table(
                ["read right", "flagged, with a score", "flagged, without one", "read wrong"],
                [[parser["right"], parser["flagged"], parser["without"], parser["wrong"]]],
            ),
        },
    )
