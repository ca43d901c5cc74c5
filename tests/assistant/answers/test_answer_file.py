"""From prompts to answers: order, going on after an end, and prompts that don't fit."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.assistant.tiny_models import TEMPLATE, saved_folder

from finetune_api.errors import InvalidData
from finetune_assistant.answers.answer_file import Progress, Written, answer_file
from finetune_assistant.inference.loading import LoadedModel, load
from finetune_assistant.inference.sampling import Sampling
from finetune_assistant.prompts.prompt_rows import PromptRow, read_prompts

SAMPLING = Sampling(temperature=1.0, max_new_tokens=6)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(str(saved_folder(tmp_path_factory.mktemp("models") / "llama", chat_template=TEMPLATE, max_position_embeddings=128)))


@pytest.fixture
def rows(tmp_path: Path) -> list[PromptRow]:
    """Five rows of different lengths, two of which ask the same."""
    asked: list[dict[str, Any]] = [{"prompt": "Why? " * count, "place": place} for place, count in enumerate((1, 9, 3, 1))]
    asked.append({"messages": [{"role": "user", "content": "Hello"}], "kind": "talk"})
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    return read_prompts(str(tmp_path / "prompts.jsonl"))


def written(loaded: LoadedModel, rows: list[PromptRow], path: Path, **more: Any) -> tuple[Written, list[dict[str, Any]]]:
    told = answer_file(loaded, rows, path, **{"sampling": SAMPLING, "batch_size": 2, **more})
    return told, [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_stand_in_the_order_of_the_prompts_beside_their_fields(loaded: LoadedModel, rows: list[PromptRow], tmp_path: Path) -> None:
    told, found = written(loaded, rows, tmp_path / "out.jsonl")
    assert (told.total, told.before, told.left_out) == (5, 0, 0)
    assert told.new_tokens == sum(row["new_tokens"] for row in found)
    assert [{name: row[name] for name in asked.fields} for row, asked in zip(found, rows, strict=True)] == [row.fields for row in rows]
    for row in found:
        assert list(row)[-5:] == ["answer", "model", "finish_reason", "prompt_tokens", "new_tokens"]
        assert row["model"] == loaded.name
        assert 1 <= row["new_tokens"] <= 6
    # The same question twice has two seeds.
    assert found[0]["answer"] != found[3]["answer"]


def test_a_run_that_was_ended_goes_on_and_gives_the_same_answers(loaded: LoadedModel, rows: list[PromptRow], tmp_path: Path) -> None:
    _, whole = written(loaded, rows, tmp_path / "whole.jsonl", samples=2)
    path = tmp_path / "out.jsonl"

    def end(progress: Progress) -> None:
        if progress.done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        written(loaded, rows, path, samples=2, on_progress=end)
    left = path.read_bytes()
    assert left.count(b"\n") == 4
    path.write_bytes(left[:-3])  # and the machine went down while the last line was written
    told, found = written(loaded, rows, path, samples=2, batch_size=3)
    assert (told.total, told.before) == (10, 3)
    assert found == whole
    assert [row["sample"] for row in found] == [0, 1] * 5
    told, again = written(loaded, rows, path, samples=2)
    assert (told.before, told.new_tokens, again) == (10, 0, whole)


def test_an_answer_depends_on_its_question_and_not_on_the_rest_of_the_file(
    loaded: LoadedModel, rows: list[PromptRow], tmp_path: Path
) -> None:
    _, whole = written(loaded, rows, tmp_path / "whole.jsonl")
    _, part = written(loaded, rows[1:3], tmp_path / "part.jsonl")
    assert [row["answer"] for row in part] == [row["answer"] for row in whole[1:3]]
    told, grown = written(loaded, rows, tmp_path / "part.jsonl")
    assert (told.before, grown) == (2, whole)


def test_other_settings_or_fewer_prompts_are_refused(loaded: LoadedModel, rows: list[PromptRow], tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    written(loaded, rows, path)
    before = path.read_bytes()
    with pytest.raises(InvalidData, match=r"temperature was 1\.0 and is 0\.5"):
        written(loaded, rows, path, sampling=Sampling(temperature=0.5, max_new_tokens=6))
    with pytest.raises(InvalidData, match="samples was 1 and is 2"):
        written(loaded, rows, path, samples=2)
    with pytest.raises(InvalidData, match="system was null and is"):
        written(loaded, rows, path, asked_with={"system": "s"})
    with pytest.raises(InvalidData, match="holds 3 answers to prompts that are not in the file now"):
        written(loaded, rows[:2], path)
    assert path.read_bytes() == before
    told, _ = written(loaded, rows[:2], path, overwrite=True)
    assert (told.total, told.before) == (2, 0)


def test_prompts_that_dont_fit_are_named_before_anything_is_written(loaded: LoadedModel, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("Why?", "Why? " * 99, "x " * 200)))
    with pytest.raises(InvalidData, match=r"row 2: the question is \d+ tokens long .*; row 3: .*the window of 128 tokens, of which 6 are"):
        written(loaded, read_prompts(str(prompts)), tmp_path / "out.jsonl")
    assert [file.name for file in tmp_path.iterdir()] == ["prompts.jsonl"]


def test_a_long_dialogue_is_asked_without_its_oldest_turns_which_is_told(loaded: LoadedModel, tmp_path: Path) -> None:
    turn = [{"role": "user", "content": "Why? " * 15}, {"role": "assistant", "content": "So."}]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"messages": [*turn, *turn, *turn, {"role": "user", "content": "And?"}]}) + "\n")
    told, [row] = written(loaded, read_prompts(str(prompts)), tmp_path / "out.jsonl")
    assert row["left_out"] == told.left_out > 0
    assert row["prompt_tokens"] <= 122
