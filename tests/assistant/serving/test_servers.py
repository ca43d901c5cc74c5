"""Which server is chosen, and its command line. `tests/cli/test_serve.py` starts the one that is installed here."""

import sys
from pathlib import Path

import pytest

from finetune_api.errors import InvalidInput
from finetune_assistant.serving.servers import Listening, chosen, command

AT = Listening(host="[::1]", port=8001, dtype="bf16", arguments=["--max-model-len", "4096"])


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of this name on PATH."""
    program = tmp_path / "bin/vllm"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    return program


@pytest.fixture
def no_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("no_vllm")
def test_transformers_own_server_is_the_one_without_vllm() -> None:
    assert chosen(None) == "transformers"
    with pytest.raises(InvalidInput, match=r"--server vllm: there is no program vllm .*; pip install vllm, or leave --server out"):
        chosen("vllm")
    found = command("transformers", "demo", Path("/cache"), Path("/cache/demo"), AT)
    assert found.arguments[:4] == (sys.executable, "-m", "transformers.cli.transformers", "serve")
    assert " ".join(found.arguments[4:]) == "demo --host ::1 --port 8001 --device auto --dtype bfloat16 --max-model-len 4096"
    assert (found.environment["HF_HUB_CACHE"], found.environment["HF_HUB_OFFLINE"]) == ("/cache", "1")
    assert found.working_folder == Path("/cache")


def test_vllm_goes_first_where_it_is_installed(vllm: Path) -> None:
    assert chosen(None) == chosen("vllm") == "vllm"
    assert chosen("transformers") == "transformers"
    found = command("vllm", "demo", Path("/cache"), Path("/cache/demo"), AT)
    assert found.arguments[0] == str(vllm)
    assert " ".join(found.arguments[1:]) == (
        "serve /cache/demo --host ::1 --port 8001 --served-model-name demo --generation-config /cache/demo --dtype bfloat16"
        " --max-model-len 4096"
    )
    with pytest.raises(InvalidInput, match="--device cpu: vLLM serves on the kind of device that it was built for; leave it out"):
        command("vllm", "demo", Path("/cache"), Path("/cache/demo"), Listening(host="127.0.0.1", port=8001, device="cpu"))


@pytest.mark.usefixtures("no_vllm")
def test_a_missing_extra_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("fastapi", "uvicorn"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InvalidInput) as refused:
        chosen(None)
    assert str(refused.value) == (
        "a server is needed, and Transformers' own lacks fastapi, uvicorn; "
        "pip install 'finetune-operator[trainer,serving]', or pip install vllm"
    )
