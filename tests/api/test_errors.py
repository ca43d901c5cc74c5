"""finetune_api/errors.py"""

import importlib
import pickle
import pkgutil
import re
from collections.abc import Iterator
from types import ModuleType

import pytest

import finetune_api
import finetune_assistant
import finetune_cli
import finetune_client
import finetune_operator
import finetune_trainer
from finetune_api import errors
from finetune_api.errors import FineTuneError, InvalidInput, InvalidSpec, Problem, RunFailed

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


@pytest.fixture(scope="module")
def kinds() -> set[type[FineTuneError]]:
    """Every error of every package."""
    for package in (finetune_api, finetune_operator, finetune_client, finetune_trainer, finetune_assistant, finetune_cli):
        for name in _modules(package):
            importlib.import_module(name)
    return {FineTuneError, *_subclasses(FineTuneError)}


def test_every_family_is_in_the_tree(kinds: set[type[FineTuneError]]) -> None:
    """What a room defines for itself is a narrower word for one of them."""
    branches = {FineTuneError, InvalidInput, RunFailed}
    families = {kind for kind in kinds if kind in branches or branches & set(kind.__bases__)}
    assert {kind.__name__ for kind in families if kind.__module__ != errors.__name__} == set()
    drawn = re.findall(r"^[│├└─ ]*([A-Z]\w+)", str(errors.__doc__), re.MULTILINE)[1:]
    assert sorted(drawn) == sorted(name for name, value in vars(errors).items() if isinstance(value, type) and value in kinds)


def test_every_error_survives_pickling(kinds: set[type[FineTuneError]]) -> None:
    """A rank's error reaches the driver as it was: class, text, reason, exit code, and what else it carries."""
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
