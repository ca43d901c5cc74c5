"""finetune_api/errors.py"""

import importlib
import pickle
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import pytest

import finetune_api
import finetune_cli
import finetune_operator
import finetune_trainer
from finetune_api.errors import FineTuneError, InvalidSpec, Problem

# How to make an error of each class that takes more than a message.
OTHERWISE = {
    "InvalidSpec": lambda kind: kind([Problem("spec.training.epochs", "0 is less than 1", "use 1 or more"), Problem("spec", "empty")]),
    "Unreachable": lambda kind: kind("nobody answers", why="refused"),
}


def _modules(package: ModuleType) -> Iterator[str]:
    return (found.name for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.") if "__main__" not in found.name)


def _subclasses(kind: type[FineTuneError]) -> Iterator[type[FineTuneError]]:
    for one in kind.__subclasses__():
        yield one
        yield from _subclasses(one)


def test_every_error_survives_pickling() -> None:
    """A rank's error reaches the driver as it was: class, text, reason, exit code, and what else it carries."""
    for package in (finetune_api, finetune_operator, finetune_cli, finetune_trainer):
        for name in _modules(package):
            importlib.import_module(name)
    kinds = {FineTuneError, *_subclasses(FineTuneError)}
    assert {"InvalidSpec", "MissingObject", "DamagedCheckpoint", "ModelUnreachable", "GateClosed"} <= {kind.__name__ for kind in kinds}
    for kind in kinds:
        error = OTHERWISE.get(kind.__name__, lambda kind: kind("spec.x=1 is wrong; use 2"))(kind)
        error.add_note("while reading")
        back = pickle.loads(pickle.dumps(error))
        assert type(back) is kind
        assert (str(back), back.reason, back.exit_code, vars(back)) == (str(error), error.reason, error.exit_code, vars(error))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_invalid_spec_keeps_its_problems(protocol: int) -> None:
    error = InvalidSpec([Problem("spec.training.epochs", "0 is less than 1", "use 1 or more")])
    back = pickle.loads(pickle.dumps(error, protocol))
    assert str(back) == "spec.training.epochs: 0 is less than 1; use 1 or more"
    assert back.problems == error.problems
