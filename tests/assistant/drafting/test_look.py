"""finetune_assistant/drafting/look.py: a model and rows as preparation will find them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Tiny

from finetune_api.errors import InvalidData, InvalidModel
from finetune_api.finetunejob import BaseModelSpec, DataSource, TemplateSpec
from finetune_assistant.drafting.found import FoundModel, FoundSource
from finetune_assistant.drafting.look import ENCODED, Lengths, look_at_model, look_at_source
from finetune_trainer.secrets import Secrets
from finetune_trainer.storage.protocol import Storage

CHAT = {"messages": [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hi."}]}


def no_storage(url: str) -> Storage:
    raise AssertionError(f"{url} is asked for")


def model_at(folder: Path, **template: Any) -> tuple[FoundModel, Lengths | None]:
    spec = BaseModelSpec(name=str(folder))
    return look_at_model(spec, TemplateSpec(**template), base=Path(), secrets=Secrets({}), open_storage=no_storage)


def looked(path: Path, lengths: Lengths | None = None, **settings: Any) -> FoundSource:
    source = DataSource(path=str(path), **settings)
    return look_at_source(source, lengths, base=Path(), secrets=Secrets({}), open_storage=no_storage)


def file_of(folder: Path, *rows: Any, name: str = "rows.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / name


@pytest.fixture(scope="module")
def lengths(tiny: Tiny) -> Lengths:
    found = model_at(tiny.model)[1]
    assert found is not None
    return found


def test_a_folder_without_weights_is_a_model_that_begins_at_random(tiny: Tiny) -> None:
    found, _ = model_at(tiny.model)
    assert found.spec.initialization == "random"
    assert found.shape is not None
    assert (found.shape.positions, found.template, found.away) == (512, "default", "")


def test_a_folder_with_a_part_of_its_weights_is_refused(tmp_path: Path, tiny: Tiny) -> None:
    folder = shutil.copytree(tiny.model, tmp_path / "half")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "model-00001-of-00002.safetensors"}}))
    with pytest.raises(InvalidModel, match=r"lacks model-00001-of-00002\.safetensors"):
        model_at(folder)


def test_a_chat_template_is_used_where_it_can_be(tmp_path: Path, tiny: Tiny) -> None:
    folder = shutil.copytree(tiny.model, tmp_path / "chat")
    turn, prompt = "{{ m.role }}: {{ m.content }}{{ eos_token }}\n", "{% if add_generation_prompt %}assistant: {% endif %}"
    template = f"{{% for m in messages %}}{turn}{{% endfor %}}{prompt}"
    (folder / "chat_template.jinja").write_text(template)
    assert model_at(folder)[0].template == "model"
    (folder / "chat_template.jinja").write_text("{{ nothing at all")
    found, counter = model_at(folder)
    assert found.template == "default"
    assert found.template_fault
    assert counter is not None
    assert "no chat_template" in model_at(tiny.model, name="model")[0].template_fault


def test_rows_are_counted_as_a_job_reads_them(tmp_path: Path, lengths: Lengths) -> None:
    wrong, trailing = {"messages": [{"role": "oracle", "content": "x"}]}, {"messages": [*CHAT["messages"], CHAT["messages"][0]]}
    file = file_of(tmp_path, wrong, CHAT, trailing, CHAT)
    found = looked(file, lengths)
    assert (found.format, found.rows, found.is_all, found.usable, found.messages) == ("messages", 4, True, 3, 6)
    assert (found.wrong, found.first_wrong.startswith(f"{file} row 1: message 1: unknown role 'oracle'")) == (1, True)
    assert found.left_out == {"trailing user turn": 1}
    assert found.trees == 1, "rows with one first question are one conversation"
    assert found.encoded == 3
    assert len(set(found.lengths)) == 1


def test_the_lengths_are_those_of_the_trainer(tmp_path: Path, lengths: Lengths, tiny: Tiny) -> None:
    found = looked(tiny.dialogues, lengths)
    prompts = [json.loads(row) for row in tiny.dialogues.read_text().splitlines()]
    assert len(found.lengths) == len(prompts) == found.rows
    assert looked(tiny.dialogues, None).lengths == ()


def test_of_many_rows_a_sample_is_encoded_and_all_are_counted(tmp_path: Path, lengths: Lengths) -> None:
    short, long = ({"text": text} for text in ("short", "long " * 50))
    file = file_of(tmp_path, *[short] * 3000, *[long] * 3000)
    found = looked(file, lengths)
    assert (found.format, found.rows, found.usable, found.encoded, found.divides) == ("text", 6000, 6000, ENCODED, True)
    assert 0.4 < sum(length > 20 for length in found.lengths) / ENCODED < 0.6, "of all rows, and not of the first"
    assert looked(file, lengths) == found
    assert found.examples == 6000


def test_a_split_for_evaluation_is_found(tmp_path: Path) -> None:
    file_of(tmp_path / "both", CHAT, name="train.jsonl")
    assert not looked(tmp_path / "both").has_test
    file_of(tmp_path / "both", CHAT, name="test.jsonl")
    assert looked(tmp_path / "both").has_test
    assert not looked(tmp_path / "both" / "train.jsonl").has_test


def test_rows_that_fit_no_format_or_hold_nothing_are_refused_with_their_numbers(tmp_path: Path, lengths: Lengths) -> None:
    with pytest.raises(InvalidData, match=r"row 1: no known format has the columns 'q', 'a'"):
        looked(file_of(tmp_path, {"q": "x", "a": "y"}))
    with pytest.raises(InvalidData, match=r"nothing to learn from in 2 rows.*row 1: message 1: unknown role 'oracle'"):
        looked(file_of(tmp_path, *[{"messages": [{"role": "oracle", "content": "x"}]}] * 2))
    with pytest.raises(InvalidData, match="empty"):
        looked(file_of(tmp_path))
    with pytest.raises(InvalidData, match=r"nothing to learn from.*1 x no assistant turn"):
        looked(file_of(tmp_path, {"messages": CHAT["messages"][:1]}), lengths)
