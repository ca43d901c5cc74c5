"""A batch of cases of one target: each is read or refused with a FineTuneError; anything else is a failure, made as small as it goes."""

import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from tests.fuzz.targets import Target

from finetune_api.errors import FineTuneError


@dataclass(slots=True)
class Tally:
    """What came of a target's cases. `failure`: the first one that was neither read nor refused, with its traceback."""

    cases: int = 0
    refused: int = 0
    seconds: float = 0.0
    failure: str = ""


def run_batch(target: Target, count: int, *, seed: int, tally: Tally) -> None:
    """Add `count` cases to the tally; always the same ones for a seed."""

    smallest: list[str] = []

    @seeded(seed)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )
    @given(target.cases)
    def cases(case: Any) -> None:
        tally.cases += 1
        with tempfile.TemporaryDirectory(prefix="case-") as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                target.read(case, Path(folder))
            except FineTuneError as error:
                tally.refused += 1
                if not str(error).strip():
                    raise RuntimeError("a refusal that says nothing") from error
            except Exception:
                smallest.append(repr(case))
                raise

    began = time.monotonic()
    try:
        cases()
    except Exception as error:
        # Hypothesis runs the smallest case last.
        case, frames = smallest[-1] if smallest else "?", traceback.format_tb(error.__traceback__)[-4:]
        tally.failure = f"{type(error).__name__}: {str(error)[:200]}\nseed {seed}, case {case[:800]}\n{''.join(frames)}"
    tally.seconds += time.monotonic() - began
