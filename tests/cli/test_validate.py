import json
import shutil
from pathlib import Path

import pytest
import yaml
from tests.api.jobs import mapping
from tests.api.planning_refusals import REFUSALS, STORAGE
from tests.cli.conftest import Finetune
from tests.conftest import Tiny

from finetune_cli.app import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_text(yaml.safe_dump(mapping()))
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(mapping(training={"epoch": 1, "seed": "x"})))
    return tmp_path


def test_a_good_job(folder, capsys):
    assert main(["validate", "good.yaml"]) == 0
    assert capsys.readouterr().out == "good.yaml: valid\n"


def test_all_problems_of_all_jobs(folder, capsys):
    (folder / "arithmetic.yaml").write_text(yaml.safe_dump(mapping(training={"globalBatchSize": 100})))
    assert main(["validate", "good.yaml", "bad.yaml", "arithmetic.yaml", "missing.yaml"]) == 2
    text = " ".join(capsys.readouterr().err.split())
    assert "bad.yaml: spec.training.epoch: there is no such field; did you mean epochs?" in text
    assert "arithmetic.yaml: spec.training.globalBatchSize: 100 is not a multiple" in text
    assert " missing.yaml: no such file" in text
    assert "missing.yaml: missing.yaml" not in text


def test_json(folder, capsys):
    assert main(["validate", "good.yaml", "bad.yaml", "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert [(entry["file"], entry["valid"]) for entry in found["jobs"]] == [("good.yaml", True), ("bad.yaml", False)]
    assert found["jobs"][1]["problems"] == [
        {"field": "spec.training.seed", "message": '"x" is not a whole number', "remedy": "write a whole number without quotes"},
        {"field": "spec.training.epoch", "message": "there is no such field", "remedy": "did you mean epochs?"},
    ]
    assert main(["validate", "good.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["valid"] is True


def test_a_field_without_effect_is_told(folder, capsys):
    assert main(["validate", "good.yaml", "--set", "generation.temperature=0", "--set", "generation.topK=5"]) == 0
    note = "spec.generation.topK has no effect: it chooses among candidates, and temperature 0 takes the likeliest."
    assert capsys.readouterr().out == f"good.yaml: valid\ngood.yaml: note: {note}\n"
    assert main(["validate", "good.yaml", "--json", "--set", "generation.temperature=0", "--set", "generation.topK=5"]) == 0
    assert json.loads(capsys.readouterr().out)["jobs"][0]["notes"] == [note]


def test_overrides_are_checked_too(folder, capsys):
    assert main(["validate", "good.yaml", "--set", "training.globalBatchSize=100"]) == 2
    assert "use 96 or 128" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_for_a_cluster_what_the_operator_refuses_is_refused(folder, capsys, refusal):
    spec = {"checkpoints": STORAGE} | {name: STORAGE | given if name == "checkpoints" else given for name, given in refusal.spec.items()}
    (folder / "refused.yaml").write_text(yaml.safe_dump(mapping(**spec)))
    assert main(["validate", "refused.yaml", "--cluster"]) == 2
    text = " ".join(capsys.readouterr().err.split())
    assert all(word in text for word in refusal.words), text


def test_only_for_a_cluster_storage_is_needed(folder, capsys):
    assert main(["validate", "good.yaml"]) == 0
    assert main(["validate", "good.yaml", "--cluster", "--json"]) == 2
    (entry,) = json.loads(capsys.readouterr().out.partition("\n")[2])["jobs"]
    assert [problem["field"] for problem in entry["problems"]] == ["spec.checkpoints.storage"]
    assert main(["validate", "good.yaml", "--cluster", "--set", "checkpoints.storage=s3://bucket/prefix"]) == 0


def test_paths_that_lead_nowhere(folder, capsys):
    (folder / "paths.yaml").write_text(yaml.safe_dump(mapping(model={"name": "./none"}, dataset={"sources": [{"path": "./none.jsonl"}]})))
    assert main(["validate", "paths.yaml", "--json"]) == 2
    (entry,) = json.loads(capsys.readouterr().out)["jobs"]
    assert [problem["field"] for problem in entry["problems"]] == ["spec.model.name", "spec.dataset.sources[0].path"]
    assert main(["validate", "good.yaml", "--set", "model.name=./typed"]) == 2


def test_an_absolute_path_may_exist_only_where_the_job_runs(folder):
    (folder / "pod.yaml").write_text(yaml.safe_dump(mapping(dataset={"sources": [{"path": "/only/in/the/pod.jsonl"}]})))
    assert main(["validate", "pod.yaml"]) == 0


def test_a_model_that_is_at_hand_is_looked_at(folder, capsys):
    (folder / "model").mkdir()
    config = {"architectures": ["GPTBigCodeForCausalLM"], "n_layer": 2, "n_embd": 64, "n_head": 4, "n_positions": 256, "vocab_size": 512}
    (folder / "model" / "config.json").write_text(json.dumps(config))
    (folder / "local.yaml").write_text(yaml.safe_dump(mapping(model={"name": "./model"})))
    assert main(["validate", "local.yaml"]) == 2
    assert "1024 is more than the 256 positions of the model; use at most 256" in " ".join(capsys.readouterr().err.split())
    (folder / "model" / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    assert main(["validate", "local.yaml"]) == 2
    assert "BertModel is not one that we can count" in " ".join(capsys.readouterr().err.split())
    (folder / "model" / "config.json").write_text(json.dumps({**config, "architectures": ["PhiForCausalLM"]}))
    assert main(["validate", "local.yaml"]) == 0


@pytest.mark.parametrize(("own", "said"), [(True, "template: that of the tokenizer of the model"), (False, "template: default, for")])
def test_what_auto_stands_for_is_said(finetune: Finetune, tiny: Tiny, tmp_path: Path, own: bool, said: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny.model, folder)
    if own:
        (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    for command in ("validate", "plan"):
        code, out, err = finetune(command, tiny.job, model__name=str(folder), template__name="auto")
        assert code == 0, err
        assert said in out.replace("\n", " ")
