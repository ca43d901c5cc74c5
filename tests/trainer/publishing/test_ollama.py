"""The Modelfile: its template, run by Go itself, gives the text of training."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.exported_models import ModelWeights, base_folder, source_model, training_run

from finetune_trainer.data.dialogues import Message
from finetune_trainer.publishing.export import export
from finetune_trainer.publishing.ollama import go_template, modelfile
from finetune_trainer.templates.framed import FramedTemplate
from finetune_trainer.templates.registry import template_from_spec
from finetune_trainer.templates.tokenizer import read_tokenizer

# As Ollama does it (template.go): .System is the text of all system messages, .Messages are all of them.
PROGRAM = """package main

import ("encoding/json"; "os"; "strings"; "text/template")

type message struct { Role, Content string }
type question struct { Template string; Messages []message }

func main() {
	var asked []question
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil { panic(err) }
	answers := []string{}
	for _, one := range asked {
		var system []string
		for _, m := range one.Messages { if m.Role == "system" { system = append(system, m.Content) } }
		var text strings.Builder
		values := map[string]any{"System": strings.Join(system, "\\n\\n"), "Messages": one.Messages}
		if err := template.Must(template.New("").Parse(one.Template)).Execute(&text, values); err != nil { panic(err) }
		answers = append(answers, text.String())
	}
	json.NewEncoder(os.Stdout).Encode(answers)
}
"""
TALKS = [
    [("user", "Hello?")],
    [("user", "  two\n\nlines  "), ("assistant", 'a "quoted" {{ answer }} `x`'), ("user", "é 😀 <|end|>")],
    [("system", "Be kind."), ("user", "Hello?")],
]
SPECS: list[dict[str, Any]] = [
    {"name": "default"},
    {"name": "no_system"},
    {"name": "alpaca"},
    {"name": "chatml"},
    {"name": "plain"},
    {"name": "default", "systemTurn": False},
]


def framed(base: Path, spec: dict[str, Any]) -> FramedTemplate:
    template = template_from_spec(training_run(base, template=spec).job.spec.template, read_tokenizer(base))
    assert isinstance(template, FramedTemplate)
    return template


@pytest.mark.thorough
def test_go_renders_the_text_of_training(tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base", "llama")
    templates = [framed(base, spec) for spec in SPECS]
    asked = [
        {"Template": go_template(template), "Messages": [{"Role": role, "Content": text} for role, text in talk]}
        for template in templates
        for talk in TALKS
    ]
    (tmp_path / "main.go").write_text(PROGRAM)
    done = subprocess.run(
        ["go", "run", str(tmp_path / "main.go")], input=json.dumps(asked), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = [
        template.render([Message(role=role, content=text) for role, text in talk], generation_prompt=True)  # type: ignore[arg-type]
        for template in templates
        for talk in TALKS
    ]
    assert json.loads(done.stdout) == expected


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    base = base_folder(tmp_path / "base", "llama")
    export(training_run(base), ModelWeights(source_model(base, rows=837)), step=1, base=base, folder=tmp_path / "model")
    return tmp_path / "model"


def test_stops_and_sampling_are_those_of_the_exported_model(folder: Path) -> None:
    lines = modelfile(folder, "demo.gguf", 256).splitlines()
    assert lines[0] == "FROM ./demo.gguf"
    assert lines[1].startswith('TEMPLATE """{{')
    assert lines[2:] == [
        'PARAMETER stop "<|end|>"',
        'PARAMETER stop "<|endoftext|>"',
        'PARAMETER stop "<|user|>"',
        'PARAMETER stop "<|system|>"',
        "PARAMETER temperature 0.2",
        "PARAMETER top_k 50",
        "PARAMETER top_p 0.95",
        "PARAMETER repeat_penalty 1.2",
        "PARAMETER num_predict 256",
    ]


def test_greedy_stays_greedy(tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base", "llama")
    run = training_run(base, generation={"temperature": 0.0})
    export(run, ModelWeights(source_model(base, rows=837)), step=1, base=base, folder=tmp_path / "model")
    assert "PARAMETER temperature 0\n" in modelfile(tmp_path / "model", "demo.gguf", 9)


def test_a_models_own_template_is_left_to_the_gguf(tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base", "llama")
    settings = json.loads((base / "tokenizer_config.json").read_text())
    turns = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|endoftext|>{% endfor %}"
    source = turns + "{% if add_generation_prompt %}<assistant>{% endif %}"
    (base / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": source}))
    run = training_run(base, template={"name": "model"})
    export(run, ModelWeights(source_model(base, rows=833)), step=1, base=base, folder=tmp_path / "model")
    text = modelfile(tmp_path / "model", "demo.gguf", 256)
    assert "TEMPLATE" not in text
    assert 'PARAMETER stop "<|endoftext|>"' in text
