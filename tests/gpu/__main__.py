"""`make test-gpu`: what this machine's GPU computes against the same on its CPU, as a section of docs/benchmarks.md.

Takes the Python that it is given (`make test-gpu PYTHON=python3`) with the torch and Transformers that this has. Without a GPU it says so
and ends well. Ends with 1 when something is wrong, and after eight minutes.
"""

import faulthandler
import shutil
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from tests.gpu.training import Sizes

_MOST_SECONDS = 470.0
_WOULD_RUN = (
    "it would compare attention, the loss, steps in bf16, fp16 and fp32, a checkpoint, also one that is written while steps go on, the "
    "engine, recomputed layers, LoRA, QLoRA and 8-bit AdamW (where bitsandbytes is there) with this machine's CPU, ZeRO-3 over NCCL with "
    "the engine (where DeepSpeed is there), count host syncs, profile, check the GPU as an attempt does at its start, then measure "
    "tokens/s, MFU and peak memory of a 1 B GPTBigCode beside plain Transformers, the copy for a checkpoint, and memory planned and seen"
)


def main() -> int:
    """The exit code."""
    if sys.version_info < (3, 11):  # noqa: UP036  (this Python is the machine's)
        return _told(f"Python {sys.version.split()[0]} is older than 3.11; give another: make test-gpu PYTHON=python3.11", 1)
    try:
        import torch
        import transformers  # noqa: F401  (only whether it is there)
    except ImportError as error:
        missing = f"{sys.executable} has no {error.name}; give a Python that has torch and transformers: make test-gpu PYTHON=..."
        return _told(missing, 1) if shutil.which("nvidia-smi") else _told(f"no GPU here, nothing was checked ({missing})\n{_WOULD_RUN}", 0)
    if not torch.cuda.is_available():
        return _told(f"no GPU here: torch {torch.__version__} finds none, nothing was checked\n{_WOULD_RUN}", 0)
    faulthandler.dump_traceback_later(_MOST_SECONDS, exit=True)  # a kernel that hangs can't be interrupted
    return _checked()


def _checked() -> int:
    import torch
    from tests.gpu.page import copies, measured, memories, page, speeds
    from tests.gpu.training import Sizes

    device = torch.device("cuda", torch.cuda.current_device())
    found = measured(device, Sizes())
    told = [_tried(make, device) for make in (speeds, copies, memories)]
    print(page(device, found, "\n\n".join(filter(None, told))))
    return 0 if all(one.good for one in found) else 1


def _tried(make: "Callable[[torch.device, Sizes], str]", device: "torch.device") -> str:
    from tests.gpu.speed import speed_sizes

    try:
        return make(device, speed_sizes(device))
    except Exception as error:  # the checks' table is worth having all the same
        return f"{make.__name__} could not be measured: {type(error).__name__}: {error}"


def _told(text: str, code: int) -> int:
    print(text)
    return code


if __name__ == "__main__":
    sys.exit(main())
