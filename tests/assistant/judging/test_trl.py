"""What we write and export, TRL (requirements/readers-trl.txt) takes a step on: preference pairs, and rows of ids and labels."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.assistant.judging.answer_files import pair
from tests.assistant.tiny_models import exported_run
from tests.readers import trl_trainers
from tests.readers.environments import environment, packages

from finetune_assistant.inference.prompting import TrainedPrompter
from finetune_assistant.judging.votes import Vote, vote_row
from finetune_cli.app import main
from finetune_trainer.data.dialogues import Dialogue, Message
from finetune_trainer.preparation.labels import Encoder
from finetune_trainer.templates.registry import template_from_json
from finetune_trainer.templates.tokenizer import read_tokenizer

pytestmark = pytest.mark.thorough

PAIRS = [pair(number) for number in range(4)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A Llama, for TRL doesn't switch off the dropout of GPTBigCode's attention: the loss would not begin at ln 2.
    place = tmp_path_factory.mktemp("runs") / "tiny"
    place.mkdir()
    return exported_run(place, architecture="llama") / "model"


@pytest.fixture(scope="module")
def encoder(model: Path) -> Encoder:
    return Encoder(read_tokenizer(model).tokenizer, template_from_json((model / "dialogue_template.json").read_text()))


@pytest.fixture(scope="module")
def seen(model: Path, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Both steps in one process, which takes ten seconds to import what it needs."""
    place = tmp_path_factory.mktemp("trl")
    votes = [Vote(pair=each, label="ab"[number % 2], rater="ann", names=("tuned", "base")) for number, each in enumerate(PAIRS)]  # type: ignore[arg-type]
    (place / "votes.jsonl").write_text("".join(f"{json.dumps(vote_row(vote))}\n" for vote in votes))
    assert main(["data", "preferences", str(place / "votes.jsonl"), "--output", str(place / "preferences.jsonl")]) == 0
    rows = [{"input_ids": each.input_ids, "labels": each.labels} for talk in talks() for each in encoder.encode([talk])[0].examples]
    (place / "tokens.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    files = [model, place / "preferences.jsonl", place / "tokens.jsonl", place, place / "seen.json"]
    command = [sys.executable, "-W", "ignore", str(trl_trainers.__file__), *map(str, files)]
    done = subprocess.run(command, cwd=place, env=environment(packages("readers-trl")), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads((place / "seen.json").read_text())
    return found


def talks() -> list[Dialogue]:
    """Two, as many as a step takes."""
    texts = [("Hello?", "Hello."), ("Why is the sky blue?", "Its air scatters short waves more than long ones.")]
    return [
        Dialogue("me", row, str(row), (Message(role="user", content=ask), Message(role="assistant", content=say)))
        for row, (ask, say) in enumerate(texts, start=1)
    ]


def test_dpo_takes_a_step_on_our_pairs_from_our_folder(seen: dict[str, Any]) -> None:
    step = seen["preference"]
    assert (step["rows"], step["steps"]) == (4, 1)
    assert step["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert step["changed"] > step["parameters"] / 2


def test_dpo_asks_as_our_chat_does(seen: dict[str, Any], model: Path) -> None:
    step, first = seen["preference"], json.loads(json.dumps(PAIRS[0].turns))
    prompter = TrainedPrompter(model)
    assert step["prompt_ids"] == prompter.encode([Message(role="user", content=first[0][1])])
    assert [prompter.decode(step[name]).strip() for name in ("chosen_ids", "rejected_ids")] == [PAIRS[0].answer_a, PAIRS[0].answer_b]
    assert prompter.stop_ids[0] in step["chosen_ids"]


def test_sft_learns_what_our_labels_say(seen: dict[str, Any], encoder: Encoder) -> None:
    step = seen["supervised"]
    assert step["supervised"] == sum(each.num_supervised for talk in talks() for each in encoder.encode([talk])[0].examples)
    assert step["changed"] > step["parameters"] / 2
