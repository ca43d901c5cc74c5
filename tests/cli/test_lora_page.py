"""docs/lora.md: its keys are the API's, its commands exist, and its example is the one that is there."""

import re
import shlex

import typer
import yaml
from tests.conftest import ROOT

from finetune_api.finetunejob import Lora, Training
from finetune_api.jobfile import load_job
from finetune_cli.app import app
from finetune_cli.example import EXAMPLES

PAGE = (ROOT / "docs/lora.md").read_text(encoding="utf-8")


def test_every_key_is_described_with_its_default() -> None:
    rows = dict(re.findall(r"^\| (`\w.+?) \| (.+?) \|", PAGE, re.MULTILINE))
    told = {
        key: value
        for keys, values in rows.items()
        for key, value in zip(re.findall(r"\w+", keys), re.split(r", (?!\w+_)", values), strict=True)
    }
    assert {key: yaml.safe_load(value.strip("`")) for key, value in told.items()} == Lora().model_dump()


def test_the_part_of_a_job_is_the_examples() -> None:
    parts = re.findall(r"```yaml\n(.+?)```", PAGE, re.DOTALL)
    trained = [Training.model_validate(yaml.safe_load(part)["training"], by_alias=True, by_name=False) for part in parts]
    assert [training.method for training in trained] == ["lora", "qlora"]
    for training in trained:
        assert training.adapter == load_job(ROOT / EXAMPLES["lora"].job).spec.training.adapter
        assert training.effective_learning_rate == 2e-4
    assert "2e-4" in PAGE


def test_its_commands_are_ours() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, options in re.findall(r"^\$ finetune (\w+) (.+?)(?:\s{2,}#.*)?$", PAGE, re.MULTILINE):
        commands[name].make_context(name, shlex.split(options))
