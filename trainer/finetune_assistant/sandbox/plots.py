"""Plots: an answer's Python run in the sandbox, and the pictures that it drew.

In: an answer of a model. Out: whether it ran and drew, its pictures as PNG, and words for what went wrong. Programs have pandas,
matplotlib, seaborn and geopandas, no window, and a file of countries: `countries.geojson` in their folder, also named by the variable
COUNTRIES. Models, prompts and scores are unknown here.
"""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from finetune_api.errors import NotInstalled
from finetune_assistant.sandbox.limits import Limits
from finetune_assistant.sandbox.notebook import missing_imports, program
from finetune_assistant.sandbox.parcels import WORK
from finetune_assistant.sandbox.run import Execution, execute

LIBRARIES = ("pandas", "matplotlib", "seaborn", "geopandas")
# Importing all of them takes seconds on a busy machine, and 1.7 GiB of addresses.
LIMITS = Limits(wall_seconds=60.0, cpu_seconds=45, memory_bytes=4 << 30)

_HERE = Path(__file__).parent
_COUNTRIES = "countries.geojson"
_ANSWER = "answer.py"
_START = "import figures\nfigures.main()\n"
_PNG = b"\x89PNG\r\n\x1a\n"
_NETWORK = re.compile(
    r"Network is down|urlopen error|NameResolutionError|getaddrinfo|name resolution|Max retries exceeded|Could not resolve host", re.I
)
_MISSING = re.compile(r"No module named '([\w.]+)'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """What became of one answer. `error` is None where it ran and drew. `pictures`: PNG, as the program made them: data of a stranger.

    `code` is what was run, and None where the answer has no Python. `notes`: lines for a notebook that were left out of it.
    """

    ran: bool
    pictures: tuple[bytes, ...]
    error: str | None
    code: str | None
    notes: tuple[str, ...] = ()
    stdout: str = ""
    stderr: str = ""

    @property
    def drew(self) -> bool:
        """There is a picture."""
        return bool(self.pictures)


def draw(answer: str, *, limits: Limits = LIMITS) -> Plot:
    """Run the answer's Python. Raises NoSandbox where it can't be confined, NotInstalled without the extra `plots`; nothing has run."""
    need_libraries()
    written = program(answer)
    if written is None:
        return Plot(ran=False, pictures=(), error="the answer holds no Python", code=None)
    execution = execute(
        _START,
        files={
            "figures.py": (_HERE / "figures.py").read_bytes(),
            _ANSWER: written.code.encode("utf-8", "replace"),
            _COUNTRIES: (_HERE / _COUNTRIES).read_bytes(),
        },
        arguments=[_ANSWER],
        environment={"MPLBACKEND": "agg", "MPLCONFIGDIR": "/tmp/home", "COUNTRIES": f"{WORK}/{_COUNTRIES}"},
        collect=[".png"],
        limits=limits,
    )
    pictures = _pictures(execution)
    return Plot(
        ran=execution.succeeded,
        pictures=pictures,
        error=_error(execution, written.code, bool(pictures), limits),
        code=written.code,
        notes=written.left_out,
        stdout=execution.stdout,
        stderr=execution.stderr,
    )


def need_libraries() -> None:
    """Raises NotInstalled where a library is missing that every plot may use."""
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise NotInstalled(f"plots need {', '.join(missing)}; install them with `pip install 'finetune-operator[plots]'`")


def _pictures(execution: Execution) -> tuple[bytes, ...]:
    """The figures that were shown or open; where there is none, the PNG files that the program wrote itself."""
    images = {name: content for name, content in sorted(execution.files.items()) if content.startswith(_PNG)}
    return tuple(content for name, content in images.items() if name.startswith(".figures/")) or tuple(images.values())


def _error(execution: Execution, code: str, drew: bool, limits: Limits) -> str | None:
    """What went wrong, in words for whoever reads the answer; None for nothing."""
    if execution.succeeded:
        return None if drew else "it ran and drew nothing"
    at_limits = {
        "wall": f"it ran for longer than {limits.wall_seconds:.0f} seconds",
        "cpu": f"it used more than {limits.cpu_seconds} seconds of CPU time",
        "memory": f"it needed more than {limits.memory_bytes / 2**30:.1f} GiB of memory",
        "output": f"it printed more than {limits.output_bytes // 1024} KiB",
        "signal": "it was ended by a signal, as of a crash",
    }
    if execution.ended in at_limits:
        return at_limits[execution.ended]
    last = (execution.stderr.strip().splitlines() or [f"it ended with exit status {execution.exit_code}"])[-1]
    if found := _MISSING.search(last):
        lacking = dict.fromkeys([found[1], *missing_imports(code)])
        return f"it imports {', '.join(lacking)}, which the sandbox doesn't have; it has {', '.join(LIBRARIES)} and what else is installed"
    if _NETWORK.search(execution.stderr):
        return f"it wanted the network, which the sandbox doesn't have ({last}); it has the file {_COUNTRIES}"
    return last[:500]
