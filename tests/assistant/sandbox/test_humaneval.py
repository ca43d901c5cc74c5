"""HumanEval: the published file's rows, programs made of them, and the estimator."""

import gzip
import itertools
import json
from pathlib import Path

import pytest

from finetune_api.errors import InvalidData
from finetune_assistant.sandbox.humaneval import (
    Attempt,
    Problem,
    answered,
    check,
    check_all,
    completed,
    pass_at_k,
    read,
)

PROBLEM = Problem(
    task_id="ours/0",
    prompt='import math\n\n\ndef root(number):\n    """The whole part of its square root."""\n',
    entry_point="root",
    test="def check(candidate):\n    assert candidate(10) == 3\n    assert candidate(0) == 0\n",
)
BODY = "    return math.isqrt(number)\n"


def row(**changed: object) -> str:
    fields = {"task_id": "ours/0", "prompt": PROBLEM.prompt, "entry_point": "root", "test": PROBLEM.test, "canonical_solution": BODY}
    return json.dumps({**fields, **changed}) + "\n"


@pytest.mark.parametrize("name", ["problems.jsonl", "problems.jsonl.gz"])
def test_rows_are_read_plain_and_compressed(tmp_path: Path, name: str) -> None:
    content = (row() + "\n" + row(task_id="ours/1")).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    problems = read(tmp_path / name)
    assert [problem.task_id for problem in problems] == ["ours/0", "ours/1"]
    assert (problems[0].prompt, problems[0].test, problems[0].canonical_solution) == (PROBLEM.prompt, PROBLEM.test, BODY)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no rows"),
        (b"{", "line 1 is not JSON"),
        (b"[1]\n", "line 1: task_id is missing or no text"),
        (row().encode() + row(test=None).encode(), "line 2: test is missing or no text"),
        (row(entry_point="root); x(").encode(), "line 1: entry_point is 'root\\); x\\(', which is no name"),
        (b"\xff\xfe", "can't be read"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_bytes(content)
    with pytest.raises(InvalidData, match=said):
        read(path)


def test_a_file_that_is_not_there_or_not_compressed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cut.gz").write_bytes(gzip.compress(row().encode())[:40])
    (tmp_path / "plain.gz").write_bytes(row().encode())
    for name in ("absent.jsonl", "cut.gz", "plain.gz"):
        with pytest.raises(InvalidData, match=f"{name} can't be read"):
            read(tmp_path / name)


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize(
    ("function", "error"),
    [
        (completed(PROBLEM, BODY), None),
        (completed(PROBLEM, BODY + "\nprint(root(input()))\n"), None),
        (answered(PROBLEM, f"Sure:\n```python\n{PROBLEM.prompt}{BODY}```\nIt takes the root."), None),
        (answered(PROBLEM, "```python\ndef root(n):\n    return math.isqrt(n)\n```"), None),
        (answered(PROBLEM, BODY), None),
        (answered(PROBLEM, f"```python\n{BODY}```"), None),
        (completed(PROBLEM, "    return 3\n"), "AssertionError"),
        (completed(PROBLEM, "    raise SystemExit(0)\n"), "it ended early, with exit status 0"),
        (completed(PROBLEM, "    import os; os._exit(0)\n"), "it ended early, with exit status 0"),
        (completed(PROBLEM, "    return (\n"), "SyntaxError: '(' was never closed"),
        (completed(PROBLEM, "    import os; os.abort()\n"), "ended by a signal"),
    ],
)
def test_a_function_passes_only_if_its_whole_test_ran(function: str, error: str | None) -> None:
    attempt = check(PROBLEM, function)
    assert (attempt.task_id, attempt.passed, attempt.error) == ("ours/0", error is None, error)


@pytest.mark.usefixtures("sandbox")
def test_attempts_come_in_order_also_when_several_run_at_once() -> None:
    bodies = [BODY, "    return 3\n", BODY]
    told: list[Attempt] = []
    attempts = check_all(((PROBLEM, completed(PROBLEM, body)) for body in bodies), parallel=2, on_attempt=told.append)
    assert [attempt.passed for attempt in attempts] == [True, False, True]
    assert told == attempts


@pytest.mark.usefixtures("sandbox")
@pytest.mark.real_data
def test_published_solutions_pass_and_nothing_else_does(test_data: Path) -> None:
    problems = read(test_data / "HumanEval.jsonl.gz")
    assert len(problems) == 164
    # Of all kinds: plain, with a helper in the prompt (32, 38, 50), with imports of their own.
    some = [problems[number] for number in (0, 1, 32, 38, 50, 115, 129, 163)]
    attempts = check_all((problem, completed(problem, problem.canonical_solution)) for problem in some)
    assert [attempt for attempt in attempts if not attempt.passed] == []
    whole = [f"```python\n{problem.prompt}{problem.canonical_solution}```" for problem in some]
    assert all(check(problem, answered(problem, answer)).passed for problem, answer in zip(some[2:5], whole[2:5], strict=True))
    assert not any(check(problem, completed(problem, "    return None\n")).passed for problem in some[:2])


@pytest.mark.parametrize(("num_samples", "num_passed", "k"), [(5, 2, 1), (5, 2, 3), (6, 1, 4), (4, 4, 2), (4, 0, 4), (6, 3, 6)])
def test_pass_at_k_is_the_share_of_choices_that_hold_a_pass(num_samples: int, num_passed: int, k: int) -> None:
    choices = list(itertools.combinations([True] * num_passed + [False] * (num_samples - num_passed), k))
    assert pass_at_k(num_samples, num_passed, k) == pytest.approx(sum(map(any, choices)) / len(choices))


@pytest.mark.parametrize(("num_samples", "num_passed", "k"), [(5, 2, 6), (5, 6, 1), (5, 2, 0), (5, -1, 1)])
def test_what_cannot_be_estimated_is_refused(num_samples: int, num_passed: int, k: int) -> None:
    with pytest.raises(ValueError, match="k must be from 1 to the number of samples"):
        pass_at_k(num_samples, num_passed, k)
