"""HumanEval: problems whose answers are functions, run against their tests in the sandbox.

In: the published file (`HumanEval.jsonl` or `.jsonl.gz`, rows of task_id, prompt, entry_point, canonical_solution, test) and a model's
completions or answers. Out: which passed, and pass@k. Asking a model is done elsewhere. Chen et al. 2021, "Evaluating Large Language Models
Trained on Code", section 2.
"""

import gzip
import math
import re
import secrets
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from finetune_api.errors import InvalidData
from finetune_api.json_text import json_value
from finetune_assistant.sandbox.limits import Limits
from finetune_assistant.sandbox.notebook import program
from finetune_assistant.sandbox.run import Execution, execute

FIELDS = ("task_id", "prompt", "entry_point", "test")
# Where a completion of a base model goes on to something else; also stop sequences for generating it.
STOP_SEQUENCES = ("\nclass ", "\ndef ", "\n#", "\n@", "\nif ", "\nprint(", "\n```")
LIMITS = Limits(wall_seconds=15.0, cpu_seconds=10, memory_bytes=1 << 30)
_MOST_BYTES = 64 << 20
_NAME = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One row. `prompt` ends after the docstring of the function `entry_point`; `test` defines `check(candidate)`."""

    task_id: str
    prompt: str
    entry_point: str
    test: str
    canonical_solution: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One sample of one problem, and what became of it. `error`: the last line of what it said, or its limit; None if it passed."""

    task_id: str
    passed: bool
    error: str | None


def read(path: Path) -> list[Problem]:
    """The problems in the file's order. Raises InvalidData that names file, line and field."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            text = file.read(_MOST_BYTES)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InvalidData(f"{path} can't be read: {error}; give HumanEval.jsonl or HumanEval.jsonl.gz") from error
    problems = [_problem(line, f"{path}, line {number}") for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not problems:
        raise InvalidData(f"{path} has no rows; give HumanEval.jsonl or HumanEval.jsonl.gz")
    return problems


def completed(problem: Problem, completion: str) -> str:
    """The function as a base model goes on with it, up to where it begins something else.

    >>> problem = Problem(task_id="t/0", prompt="def one():\\n    '''1'''\\n", entry_point="one", test="")
    >>> completed(problem, "    return 1\\n\\ndef two():\\n")
    "def one():\\n    '''1'''\\n    return 1\\n"
    """
    ends = [place for sequence in STOP_SEQUENCES if (place := completion.find(sequence)) >= 0]
    return problem.prompt + completion[: min(ends, default=len(completion))]


def answered(problem: Problem, answer: str) -> str:
    """The function as a chat model's answer has it: its code after the prompt's own imports and helpers, or, where the code doesn't
    define it, as its continuation. An answer without Python is taken as one."""
    written = program(answer)
    code = answer if written is None else written.code
    if re.search(rf"^(?:async )?def {problem.entry_point}\b", code, re.M):
        # The prompt's function is replaced by the answer's, of the same name.
        return f"{problem.prompt}    pass\n\n{code}"
    return completed(problem, code)


def check(problem: Problem, function: str, *, limits: Limits = LIMITS, stop: threading.Event | None = None) -> Attempt:
    """Run a function, with all it needs, against the problem's test. Raises NoSandbox where it can't be confined; it has not run then."""
    # Said after the last test: a program that leaves early, also with status 0, hasn't passed.
    passed = secrets.token_hex(16)
    code = f"{function}\n\n{problem.test}\n\ncheck({problem.entry_point})\nprint({passed!r})\n"
    execution = execute(code, limits=limits, stop=stop)
    if execution.succeeded and execution.stdout.rstrip().endswith(passed):
        return Attempt(task_id=problem.task_id, passed=True, error=None)
    return Attempt(task_id=problem.task_id, passed=False, error=_error(execution))


def check_all(
    functions: Iterable[tuple[Problem, str]],
    *,
    parallel: int = 1,
    on_attempt: Callable[[Attempt], None] = lambda _attempt: None,
    limits: Limits = LIMITS,
) -> list[Attempt]:
    """Each function, `parallel` at a time; `on_attempt` gets each in their order. Raises as `check` does; Ctrl-C ends those that run."""
    attempts = []
    stop = threading.Event()
    with ThreadPoolExecutor(parallel, thread_name_prefix="humaneval") as pool:
        futures = [pool.submit(check, problem, function, limits=limits, stop=stop) for problem, function in functions]
        try:
            for future in futures:
                attempts.append(future.result())
                on_attempt(attempts[-1])
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return attempts


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """Probability that one of `k` samples passes, estimated without bias from `num_samples` of which `num_passed` did.

    ValueError for fewer samples than `k`, from which it can't be estimated.

    >>> pass_at_k(4, 1, 1), pass_at_k(4, 1, 2), pass_at_k(4, 1, 4)
    (0.25, 0.5, 1.0)
    """
    if not 1 <= k <= num_samples or not 0 <= num_passed <= num_samples:
        raise ValueError(f"pass@{k} of {num_samples} samples, {num_passed} passed: k must be from 1 to the number of samples")
    return 1.0 - math.comb(num_samples - num_passed, k) / math.comb(num_samples, k)


def _problem(line: str, where: str) -> Problem:
    try:
        row = json_value(line)
    except ValueError as error:
        raise InvalidData(f"{where} is not JSON: {error}; give HumanEval.jsonl or HumanEval.jsonl.gz") from error
    for field in FIELDS:
        if not isinstance(row, dict) or not isinstance(row.get(field), str):
            raise InvalidData(f"{where}: {field} is missing or no text; a row has {', '.join(FIELDS)}")
    if not _NAME.fullmatch(row["entry_point"]):
        raise InvalidData(f"{where}: entry_point is {row['entry_point']!r}, which is no name of a function")
    solution = row.get("canonical_solution", "")
    return Problem(**{field: row[field] for field in FIELDS}, canonical_solution=solution if isinstance(solution, str) else "")


def _error(execution: Execution) -> str:
    if execution.ended == "exit":
        lines = execution.stderr.strip().splitlines()
        return lines[-1][:300] if lines else f"it ended early, with exit status {execution.exit_code}"
    return f"stopped at its limit: {execution.ended}" if execution.ended != "signal" else "ended by a signal"
