"""Which server is started, with which arguments: vLLM where it is installed, else Transformers' own.

In: what a user asks for, and a served model. Out: a command and what its environment adds. Processes are unknown here. Both servers take
chat template and generation config from the model's folder, and speak OpenAI's protocol.
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

from finetune_api.errors import InvalidInput
from finetune_assistant.inference.loading import Dtype

ServerName = Literal["vllm", "transformers"]
# What `transformers serve` imports (5.23), and what its `device_map` needs.
_PACKAGES: Final = ("fastapi", "uvicorn", "openai", "accelerate")
_DTYPES: Final = {"auto": "auto", "bf16": "bfloat16", "fp32": "float32", "fp16": "float16"}
# The folder is whole: nothing is asked of the Hub, and no server reports its use to its makers.
_ENVIRONMENT: Final = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where the server listens, and what it keeps the weights in. `arguments` go to it as they are."""

    host: str
    port: int
    device: str | None = None
    dtype: Dtype = "auto"
    arguments: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A server's command line, variables beside those of this process, and the folder to start it in."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    working_folder: Path


def chosen(wanted: ServerName | None) -> ServerName:
    """The server that is there: the wanted one, or vLLM before Transformers. Raises InvalidInput with what to install."""
    if wanted != "transformers" and _vllm() is not None:
        return "vllm"
    if wanted == "vllm":
        raise InvalidInput("--server vllm: there is no program vllm beside this Python or on PATH; pip install vllm, or leave --server out")
    if missing := [package for package in _PACKAGES if find_spec(package) is None]:
        raise InvalidInput(
            f"a server is needed, and Transformers' own lacks {', '.join(missing)}; "
            "pip install 'finetune-operator[trainer,serving]', or pip install vllm"
        )
    return "transformers"


def command(server: ServerName, name: str, cache: Path, folder: Path, at: Listening) -> Command:
    """Raises InvalidInput for a device that the server can't be told."""
    dtype, where = _DTYPES[at.dtype], ("--host", at.host.strip("[]"), "--port", str(at.port))
    if server == "transformers":
        program = (sys.executable, "-m", "transformers.cli.transformers", "serve", name)
        settings = ("--device", at.device or "auto", "--dtype", dtype)
        environment = {**_ENVIRONMENT, "HF_HUB_CACHE": str(cache)}
        # Where a folder has the model's name, Transformers takes that one.
        return Command(arguments=(*program, *where, *settings, *at.arguments), environment=environment, working_folder=cache)
    if at.device is not None:
        raise InvalidInput(f"--device {at.device}: vLLM serves on the kind of device that it was built for; leave it out")
    vllm = _vllm()
    assert vllm is not None
    own = ("--served-model-name", name, "--generation-config", str(folder), "--dtype", dtype)
    arguments = (vllm, "serve", str(folder), *where, *own, *at.arguments)
    return Command(arguments=arguments, environment=_ENVIRONMENT, working_folder=Path())


def _vllm() -> str | None:
    """vLLM's program: beside this Python, or on PATH, for it is often in an environment of its own."""
    return shutil.which("vllm", path=str(Path(sys.executable).parent)) or shutil.which("vllm")
