"""From a name to a model: what is refused, and with which remedy."""

import json
from pathlib import Path

import pytest
from tests.assistant.tiny_models import TEMPLATE, exported_run, saved_folder

from finetune_api.errors import InvalidData, InvalidModel
from finetune_assistant.inference.dialogue_prompting import DialoguePrompter
from finetune_assistant.inference.loading import load, model_place
from finetune_assistant.inference.prompting import ForeignPrompter, TrainedPrompter


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "is no folder, and no name of a model on the Hub"),
        ("nowhere", "is no folder, and no name of a model on the Hub"),
        ("{tmp}/empty", "holds no model: it has no config.json"),
        ("{tmp}/unfinished", "is a run without an exported model yet; export a checkpoint with `finetune export"),
    ],
)
def test_what_is_no_model_is_refused_with_a_remedy(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "run.json").write_text("{}")
    with pytest.raises(InvalidModel, match=message):
        model_place(name.format(tmp=tmp_path))


def test_a_run_that_is_not_there_is_not_looked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidModel, match=r"runs/tniy: there is no such run in runs \(no run at all\); check the path"):
        model_place("runs/tniy")
    for folder in ("runs/tiny", "kept/demo"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "run.json").write_text("{}")
    for name, there in (("runs/tniy", "tiny"), ("kept/dmeo", "demo")):
        with pytest.raises(InvalidModel, match=rf"there is no such run in .* \({there}\)"):
            model_place(name)
    assert model_place("org/name") == "org/name"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved_folder(tmp_path / "model", chat_template=TEMPLATE)


def test_each_kind_of_model_is_asked_in_its_own_way(folder: Path, tmp_path: Path) -> None:
    run = load(str(exported_run(tmp_path / "run")))
    assert isinstance(run.prompter, TrainedPrompter)
    assert (run.longest_answer, run.folder) == (12, tmp_path / "run" / "model")
    foreign = load(str(folder))
    assert isinstance(foreign.prompter, ForeignPrompter)
    assert foreign.notes == ()
    chosen = load(str(folder), prompt="coding")
    assert isinstance(chosen.prompter, DialoguePrompter)
    assert (chosen.prompter.prompt.name, chosen.notes) == ("coding", ())


def test_a_shard_that_is_missing_or_cut_off_is_named(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="60KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    *_, last = sorted(folder.glob("model-*.safetensors"))
    whole = last.read_bytes()
    assert load(str(folder)).model is not None
    last.write_bytes(whole[:-10])
    with pytest.raises(InvalidModel, match=f"{last.name} is damaged or cut off; download it again"):
        load(str(folder))
    last.unlink()
    with pytest.raises(InvalidModel, match=f"lacks {last.name}, which model.safetensors.index.json names; download the model again"):
        load(str(folder))


def test_weights_that_were_never_downloaded_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(InvalidModel, match=r"can't be loaded: .*model.safetensors"):
        load(str(folder))


def test_another_token_order_is_refused(tmp_path: Path) -> None:
    run = exported_run(tmp_path / "run")
    file = run / "model" / "dialogue_template.json"
    recorded = json.loads(file.read_text())
    ids = recorded["tokenIds"]
    ids["<|user|>"], ids["<|assistant|>"] = ids["<|assistant|>"], ids["<|user|>"]
    file.write_text(json.dumps(recorded))
    with pytest.raises(InvalidModel, match="roles would be mistaken for one another"):
        load(str(run))


def test_the_type_of_the_weights_is_chosen(folder: Path) -> None:
    import torch

    assert [load(str(folder), dtype=dtype).model.dtype for dtype in ("auto", "bf16")] == [torch.float32, torch.bfloat16]


def test_what_this_machine_lacks_for_smaller_weights_is_named(folder: Path) -> None:
    from importlib.util import find_spec

    import torch

    if torch.cuda.is_available() and find_spec("bitsandbytes"):
        pytest.skip("this machine lacks nothing")
    with pytest.raises(InvalidModel, match=r"--load-in 4bit needs .*(bitsandbytes|a GPU).*which this machine lacks; leave it out"):
        load(str(folder), load_in="4bit")


def test_a_prompt_file_is_read_before_the_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InvalidData, match=r"--prompt poetry: there is no such file; give one, or general or coding"):
        load(str(tmp_path), prompt="poetry")
