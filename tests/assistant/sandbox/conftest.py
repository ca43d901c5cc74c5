"""The sandbox itself: tests that run something in it take the fixture `sandbox`."""

import pytest
from tests.conftest import CI

from finetune_assistant.sandbox import run


@pytest.fixture(scope="session")
def sandbox() -> None:
    """Skips where this machine can't confine a program; under CI that is an error."""
    if reason := run.why_not():
        assert not CI, reason
        pytest.skip(reason)
