"""finetune_cli/terminal.py, where there is no terminal; bars and lines of a run are seen in tests/cli/test_run.py."""

import io

from finetune_cli.terminal import PacedLines, line_of
from finetune_trainer.reporting.events import StoppedEarly


def test_what_takes_long_says_a_line_every_ten_seconds_and_what_is_quick_says_none() -> None:
    seconds = iter([0.0, 1.0, 9.0, 11.0, 12.0, 21.5, 22.0])
    stream = io.StringIO()
    lines = PacedLines("export", stream, clock=lambda: next(seconds))
    for done in range(1, 7):
        lines.say(done, 8)
    assert stream.getvalue() == "export       38%\nexport       62%\n"


def test_an_early_end_is_a_line_of_its_own() -> None:
    early = StoppedEarly(step=30, total_steps=100, loss=2.0, best_step=10, best_loss=1.5, message="stopped early at step 30 of 100: [why]")
    line = line_of(early)
    assert line is not None
    assert line.plain == "trained      stopped early at step 30 of 100: [why]"
