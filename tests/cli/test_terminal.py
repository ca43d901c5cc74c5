"""finetune_cli/terminal.py, where there is no terminal; bars and lines of a run are seen in tests/cli/test_run.py."""

import io

from finetune_cli.terminal import PacedLines


def test_what_takes_long_says_a_line_every_ten_seconds_and_what_is_quick_says_none() -> None:
    seconds = iter([0.0, 1.0, 9.0, 11.0, 12.0, 21.5, 22.0])
    stream = io.StringIO()
    lines = PacedLines("export", stream, clock=lambda: next(seconds))
    for done in range(1, 7):
        lines.say(done, 8)
    assert stream.getvalue() == "export       38%\nexport       62%\n"
