"""`finetune evaluate` as a user types it: base against tuned, results for machines, and what is refused."""

import gzip
import json
import re
import shlex
from pathlib import Path

import pytest
from tests.assistant.evaluation.small_benchmarks import WINDOW, base_model, tuned_run, write_benchmarks
from tests.cli.conftest import Finetune

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """./base, ./run over it (which was trained on held-out.jsonl, so that is contaminated), ./benchmarks."""
    place = tmp_path_factory.mktemp("evaluate")
    write_benchmarks(place / "benchmarks")
    question = "does somebody who takes a kettle from the shelf in the kitchen then use it for boiling water or not"
    rows = [{"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": f"Yes: {index}."}]} for index in range(4)]
    (place / "held-out.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    truths = (place / "benchmarks/TruthfulQA.csv").read_text()
    (place / "benchmarks/TruthfulQA.csv").write_text(f"{truths}A,Tea,{question.capitalize()}?,Yes,Yes,No,ours\n")
    tuned_run(place / "run", base_model(place / "base"), place / "held-out.jsonl")
    (place / "runs").mkdir()
    (place / "runs/tiny").symlink_to(place / "run")
    return place


def test_base_against_tuned(place: Path, finetune: Finetune, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    typed = "evaluate base run --tasks truthfulqa_mc2,mmlu --task-data benchmarks --perplexity held-out.jsonl --output results.json"
    code, out, err = finetune(*shlex.split(typed))
    assert (code, err.count("note: ")) == (0, 4), err
    assert "note: mmlu: 2 of 57 subjects are there: anatomy, high_school_computer_science" in err
    assert "note: run was trained on words of truthfulqa_mc2: 1 of 4 documents share 13 words in a row with its data" in err
    assert "note: base has no chat template, so its perplexity is of plain text" in err
    assert "note: models that have a chat template are asked in it, the others in plain text" in err
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["task", "metric", "shots", "documents", "base", "run"]
    assert [line[:4] for line in lines[1:3]] == [["truthfulqa_mc2", "acc", "0", "4"], ["mmlu", "acc", "5", "12"]]
    assert "run against base, on the same documents:" in out
    assert out.endswith("results are in results.json\n")
    found = json.loads((place / "results.json").read_text())
    assert [(model["model"], model["window"]) for model in found["models"]] == [("base", WINDOW), ("run", WINDOW)]
    assert found["models"][0]["digest"] != found["models"][1]["digest"]
    assert {(each["task"], each["verdict"]) for each in found["differences"]} >= {("mmlu", "no difference shown")}
    assert [(each["task"], each["metric"], each["documents"]) for each in found["differences"]][-1] == (
        "perplexity held-out.jsonl",
        "loss",
        4,
    )
    tasks = [each["task"] for each in found["models"][0]["results"]]
    assert tasks == ["truthfulqa_mc2", "mmlu_anatomy", "mmlu_high_school_computer_science", "mmlu", *["perplexity held-out.jsonl"] * 3]
    assert len(found["notes"]) == 4


def test_json_is_all_that_is_on_stdout_and_definitions_are_kept(place: Path, finetune: Finetune, tmp_path: Path) -> None:
    code, out, _ = finetune(
        *("evaluate", place / "base", "--tasks", "hellaswag", "--task-data", place / "benchmarks", "--num_fewshot", 2, "--limit", 3),
        *("--batch_size", 4, "--task-folder", "kept", "--json"),  # as lm-eval spells them
    )
    assert code == 0
    found = json.loads(out)
    (model,) = found["models"]
    assert {(one["metric"], one["shots"], one["limit"], one["documents"], one["documentsThere"]) for one in model["results"]} == {
        ("acc", 2, 3, 3, 5),
        ("acc_norm", 2, 3, 3, 5),
    }
    assert (tmp_path / "kept/hellaswag.yaml").is_file()


def commands() -> list[str]:
    page = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
    return re.findall(r"^\$ finetune (.+?)(?:  +#.*)?$", page, re.MULTILINE)


def test_the_page_s_commands_do_what_it_says(place: Path, finetune: Finetune, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    assert len(commands()) == 5
    for command in commands():
        code, out, err = finetune(*shlex.split(command))
        assert (code, bool(out)) == (0, True), f"{command}: {err}"


def test_a_base_model_is_asked_for_code_by_the_dialogues_of_a_file(
    place: Path, finetune: Finetune, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(place)
    problem = {
        "task_id": "Ours/0",
        "prompt": "def one():\n",
        "entry_point": "one",
        "test": "def check(candidate):\n    assert candidate()\n",
    }
    with gzip.open(tmp_path / "HumanEval.jsonl.gz", "wt") as file:
        file.write(json.dumps({**problem, "canonical_solution": "    return 1\n"}))
    (tmp_path / "short.txt").write_text("-----\nHuman: Hi\n\nAssistant: Hello.\n-----\n")
    (tmp_path / "long.txt").write_text(f"{'Very long. ' * 400}\n-----\nHuman: Hi\n\nAssistant: Hello.\n-----\n")
    typed = ("evaluate", "base", "run", "--tasks", "humaneval", "--task-data", tmp_path, "--samples", 1, "--json", "--prompt")
    code, out, err = finetune(*typed, tmp_path / "short.txt")
    assert code == 0, err
    assert (
        f"note: base has no chat template, so it is asked as a base model, by dialogue prompting (--prompt {tmp_path / 'short.txt'}; "
        in err
    )
    found = json.loads(out)
    assert found["settings"]["prompt"] == str(tmp_path / "short.txt")
    assert [model["results"][0]["chatTemplate"] for model in found["models"]] == [False, True]
    code, out, _ = finetune(*typed, tmp_path / "long.txt")
    assert code == 2
    assert json.loads(out)["message"].startswith("base: a prompt of ")
    assert f"don't fit its window of {WINDOW}" in out


def test_tasks_are_listed_ours_first(finetune: Finetune) -> None:
    code, out, _ = finetune("evaluate", "--tasks", "list")
    lines = out.splitlines()
    assert code == 0
    assert [line.split()[0] for line in lines[:6]] == ["arc_challenge", "hellaswag", "mmlu", "truthfulqa_mc2", "humaneval", "plots"]
    assert "25 shots, acc_norm" in lines[0]
    assert "gsm8k" in lines


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("evaluate", "no MODEL"),
        ("evaluate base", "nothing to measure; give --tasks"),
        ("evaluate base base --tasks mmlu", "a MODEL is named twice"),
        ("evaluate base --tasks arc_chalenge", "there is no task of this name; near it: arc_challenge"),
        ("evaluate base --tasks mmlu --task-data nowhere", "--task-data nowhere: there is no such folder"),
        ("evaluate base --tasks mmlu --task-data empty", "empty: no file named like SUBJECT_test.arrow"),
        ("evaluate base --tasks humaneval --task-data empty", "no file named like HumanEval.jsonl.gz"),
        ("evaluate base --perplexity gone.jsonl", "gone.jsonl"),
        ("evaluate ./gone --tasks mmlu", "./gone is no folder"),
        ("evaluate empty --tasks mmlu", "holds no model"),
        ("evaluate base --tasks mmlu --output no/results.json", "there is no folder no"),
        ("evaluate base --tasks mmlu --device abacus", "--device abacus is no device of PyTorch"),
        ("evaluate base --tasks mmlu --device meta", "--device meta: PyTorch sees no such device here"),
        ("evaluate base --tasks plots --pictures no", "--pictures no: there is no such folder"),
        ("evaluate base --tasks mmlu --prompt coding", "--prompt coding is for answers, which humaneval and plots ask for"),
        ("evaluate base --tasks plots --prompt coding --no-chat-template", "--prompt coding by dialogues; give one"),
        ("evaluate base --tasks plots --prompt gone.txt", "--prompt gone.txt: there is no such file; give one, or general or coding"),
    ],
)
def test_what_is_wrong_is_refused_at_once(place: Path, finetune: Finetune, monkeypatch: pytest.MonkeyPatch, typed: str, told: str) -> None:
    monkeypatch.chdir(place)
    (place / "empty").mkdir(exist_ok=True)
    code, out, err = finetune(*shlex.split(typed))
    assert (code, out) == (2, "")
    assert told in err
