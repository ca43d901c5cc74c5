"""An exported model as one GGUF file, made by llama.cpp's own converter, which is no part of this project.

Everything but the weights' numbers is a matter of that converter's tables (names of tensors, how a tokenizer splits text), which
change with llama.cpp: a converter of our own would be wrong soon.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from finetune_api.errors import InvalidInput, PublicationFailed

# A checkout of llama.cpp, for whoever has one.
LLAMA_CPP = "LLAMA_CPP"
SCRIPT = "convert_hf_to_gguf.py"
# As packages of llama.cpp, and of its converter alone, install it.
_PROGRAMS = (SCRIPT, "convert-hf-to-gguf", "convert_hf_to_gguf")
_SHOWN_LINES = 12


def convert(folder: Path, target: Path, dtype: str, environment: Mapping[str, str] = os.environ) -> None:
    """Convert `folder` to the file `target`, in the type of its weights. What the converter says goes to stderr.

    Raises InvalidInput, with the command to type, when there is no converter; PublicationFailed when it fails.
    """
    found = converter(environment)
    arguments = [str(folder), "--outfile", str(target), "--outtype", {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}[dtype]]
    if found is None:
        typed = shlex.join(["python", SCRIPT, *arguments])
        raise InvalidInput(
            f"llama.cpp's converter is not here (neither {', '.join(_PROGRAMS)} on PATH nor {SCRIPT} in ${LLAMA_CPP}); the model is "
            f"in {folder}: in a checkout of llama.cpp run `{typed}`, or set {LLAMA_CPP} to the checkout and repeat this command"
        )
    draft = target.with_name(f".{target.name}.part")
    arguments[2] = str(draft)
    done = subprocess.run([*found, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    sys.stderr.write(done.stdout)
    if done.returncode != 0 or not draft.is_file():
        draft.unlink(missing_ok=True)
        said = " ".join(done.stdout.strip().splitlines()[-_SHOWN_LINES:][-1:]) or f"exit code {done.returncode}"
        raise PublicationFailed(f"llama.cpp's converter can't convert {folder}: {said}; the model there is whole, try a newer llama.cpp")
    draft.replace(target)


def converter(environment: Mapping[str, str]) -> Sequence[str] | None:
    """The command that converts, without its arguments; None when there is none."""
    checkout = environment.get(LLAMA_CPP)
    if checkout and (script := Path(checkout, SCRIPT)).is_file():
        return [sys.executable, str(script)]
    for program in _PROGRAMS:
        if path := shutil.which(program, path=environment.get("PATH")):
            return [path]
    return None
