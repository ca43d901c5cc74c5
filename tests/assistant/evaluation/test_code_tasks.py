"""HumanEval and plots: answers of a scripted model, run in the real sandbox."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.assistant.evaluation.small_benchmarks import base_model

from finetune_api.errors import InvalidData, InvalidModel
from finetune_assistant.evaluation.code_tasks import CodeTasks, Continuation, code_tasks, measured_code
from finetune_assistant.inference.loading import LoadedModel
from finetune_assistant.sandbox.humaneval import STOP_SEQUENCES
from finetune_trainer.data.dialogues import Message

END = 0
PROBLEMS = [
    {
        "task_id": f"Ours/{index}",
        "prompt": f'def plus_{index}(number: int) -> int:\n    """`number` and {index}."""\n',
        "entry_point": f"plus_{index}",
        "canonical_solution": f"    return number + {index}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {index + 1}\n",
    }
    for index in range(3)
]


class Letters:
    """A chat prompter whose tokens are bytes."""

    stop_ids = [END]  # noqa: RUF012
    stop_texts: tuple[str, ...] = ()
    answer_lead = ""

    def encode(self, messages: Sequence[Message]) -> list[int]:
        return list(messages[-1].content.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(token for token in ids if token != END).decode()


class Scripted:
    """What `answers` uses of a transformers model: the answer to a prompt is the script of the first word that it holds."""

    device = "cpu"

    def __init__(self, scripts: dict[str, str], window: int = 4096) -> None:
        from transformers import GenerationConfig

        self._scripts = scripts
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=window))
        self.generation_config = GenerationConfig(eos_token_id=[END], max_new_tokens=64)

    def generate(self, input_ids: Any, **_settings: Any) -> Any:
        import torch

        rows = []
        for row in input_ids.tolist():
            text = bytes(row).decode()
            script = next(script for word, script in self._scripts.items() if word in text)
            rows.append([*row, *script.encode(), END])
        longest = max(map(len, rows))
        return torch.tensor([row + [END] * (longest - len(row)) for row in rows])


def _loaded(scripts: dict[str, str], **settings: Any) -> LoadedModel:
    return LoadedModel(name="scripted", folder=Path(), model=Scripted(scripts, **settings), prompter=Letters())


def _measured(loaded: LoadedModel, tasks: CodeTasks | None, *, as_chat: bool | None = None) -> dict[str, Any]:
    assert tasks is not None
    found = measured_code(loaded, tasks, as_chat=as_chat, batch_size=2, seed=0, progress=lambda _what: lambda _done, _total: None)
    return {one.metric: one for one in found}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with gzip.open(tmp_path / "HumanEval.jsonl.gz", "wt") as file:
        file.writelines(f"{json.dumps(problem)}\n" for problem in PROBLEMS)
    return tmp_path


def test_functions_pass_or_fail_by_their_tests(data: Path) -> None:
    right = "Gladly:\n```python\ndef plus_1(number):\n    return number + 1\n```"
    scripts = {"plus_1": right, "plus_0": "```python\ndef plus_0(number):\n    return 7\n```"}
    found = _measured(_loaded(scripts), code_tasks(["humaneval"], data, 2, 2, None))
    assert found.keys() == {"pass@1"}  # two answers say nothing about ten
    one = found["pass@1"]
    assert (one.value, one.documents, one.documents_there, one.samples, one.chat_template) == (0.5, 2, 3, 2, True)
    assert one.by_document == {"Ours/0": 0.0, "Ours/1": 1.0}


def test_plots_ran_and_drew_with_their_pictures(tmp_path: Path) -> None:
    draws = "```python\nimport matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\n```"
    scripts = {"bakery": draws, "countries": "```python\nprint(1)\n```", "flats": "I can't draw."}
    found = _measured(_loaded(scripts), code_tasks(["plots"], None, 1, None, tmp_path))
    assert {metric: one.by_document for metric, one in found.items()} == {
        "ran": {"Bar chart 1": 1.0, "Map 1": 1.0, "Scatter plot 1": 0.0},
        "ran and drew": {"Bar chart 1": 1.0, "Map 1": 0.0, "Scatter plot 1": 0.0},
    }
    (picture,) = tmp_path.glob("*.png")
    assert picture.name == "scripted-Bar-chart-1-1.png"


def test_a_base_model_goes_on_with_the_function(tmp_path: Path) -> None:
    prompter = Continuation(LoadedModel(name="base", folder=base_model(tmp_path / "base"), model=None, prompter=Letters()))
    ids = prompter.encode([Message(role="user", content="def one():\n")])
    assert prompter.stop_texts == STOP_SEQUENCES
    going_on = prompter.encode([Message(role="user", content="    return 1\n")])
    assert prompter.decode(going_on) == "    return 1\n"
    assert prompter.decode([]) == ""
    assert len(ids) > 1


def test_what_is_missing_is_told_before_a_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"--tasks humaneval reads HumanEval\.jsonl\.gz"):
        code_tasks(["humaneval"], None, 1, None, None)
    with pytest.raises(InvalidData, match=r"no file named like HumanEval\.jsonl\.gz"):
        code_tasks(["humaneval"], tmp_path, 1, None, None)
    assert code_tasks(["arc_challenge"], None, 1, None, None) is None


def test_a_window_without_room_for_an_answer_is_refused(data: Path) -> None:
    with pytest.raises(InvalidModel, match="don't fit its window of 64"):
        _measured(_loaded({"plus": ""}, window=64), code_tasks(["humaneval"], data, 1, None, None))
