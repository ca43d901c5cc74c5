"""Runs inside the sandbox, around an answer's program: keeps the figures that it draws, as PNG files.

In: the program's file, as an argument. Out: `.figures/*.png` in its folder: what is shown, when it is shown, and what is still open at the
end. The program's errors are printed as Python would. It knows nothing of this package.
"""

import hashlib
import importlib
import os
import sys
import traceback
import types
from pathlib import Path
from typing import Any

FOLDER = Path(".figures")
MOST_FIGURES = 16


def main() -> None:
    """Run the program that the first argument names as `__main__`; exit status 1 if it fails."""
    path = sys.argv.pop(1)
    FOLDER.mkdir()
    code = Path(path).read_text(encoding="utf-8")
    keeper = Keeper()
    keeper.prepare(code)
    module = types.ModuleType("__main__")
    module.__file__ = path
    sys.modules["__main__"] = module
    failed = False
    try:
        exec(compile(code, path, "exec"), module.__dict__)
    except Exception as error:
        # Without the line above, which isn't the program's.
        after = error.__traceback__.tb_next if error.__traceback__ else None
        traceback.print_exception(error.with_traceback(after))
        failed = True
    finally:
        keeper.keep()
    sys.exit(int(failed))


class Keeper:
    """Takes each picture once."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def prepare(self, code: str) -> None:
        """Have matplotlib show figures here, whatever window the program asks for, and geopandas have what it had before its version 1."""
        try:
            import matplotlib
            import matplotlib.pyplot as plt
        except ImportError:
            return
        plt.switch_backend("agg")
        matplotlib.use = _nothing
        plt.switch_backend = _nothing
        plt.show = self.keep
        if "datasets" in code and "COUNTRIES" in os.environ:
            _bring_back_datasets()

    def keep(self, *_arguments: Any, **_options: Any) -> None:
        """Write every open figure that shows something and looks as none before."""
        plt = sys.modules.get("matplotlib.pyplot")
        if plt is None:
            return
        for number in plt.get_fignums():
            figure = plt.figure(number)
            if len(self._seen) < MOST_FIGURES and any(axes.has_data() for axes in figure.axes):
                self._write(figure)

    def _write(self, figure: Any) -> None:
        draft = FOLDER / "draft"
        try:
            figure.savefig(draft, format="png")
        except Exception as error:  # such as one that is too large
            traceback.print_exception(error)
            return
        digest = hashlib.sha256(draft.read_bytes()).hexdigest()
        if digest not in self._seen:
            self._seen.add(digest)
            draft.rename(FOLDER / f"{len(self._seen):02}.png")


def _nothing(*_arguments: Any, **_options: Any) -> None:
    pass


def _bring_back_datasets() -> None:
    """`geopandas.datasets.get_path(...)`, which much published code calls, gives the file of countries."""
    try:
        geopandas: Any = importlib.import_module("geopandas")
    except ImportError:
        return
    datasets: Any = types.ModuleType("geopandas.datasets")
    datasets.available = ["naturalearth_lowres"]
    datasets.get_path = lambda _name: os.environ["COUNTRIES"]
    sys.modules["geopandas.datasets"] = geopandas.datasets = datasets


if __name__ == "__main__":
    main()
