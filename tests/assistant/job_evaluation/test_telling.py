"""How far an evaluation is: calm, and whole at the end."""

from finetune_assistant.job_evaluation.telling import Told
from finetune_trainer.reporting.events import Event, Notice, StageAdvanced, StageStarted


def test_progress_is_told_once_a_second_and_at_the_end() -> None:
    events: list[Event] = []
    now = 100.0
    told = Told(events.append, str, clock=lambda: now)
    say = told.progress("base, arc")
    for done in range(1, 4):
        say(done, 5)
    now += 1.5
    say(4, 5)
    say(5, 5)
    assert events == [
        StageStarted(stage="evaluation", total=5, unit="requests (base, arc)"),
        *(StageAdvanced(stage="evaluation", done=done) for done in (1, 4, 5)),
    ]
    say(1, 2)  # requests of another kind
    assert events[4] == StageStarted(stage="evaluation", total=2, unit="requests (base, arc)")


def test_a_note_is_told_and_kept_once_and_in_a_jobs_words() -> None:
    events: list[Event] = []
    told = Told(events.append, str.upper)
    told.note("a")
    told.note("a")
    assert (told.notes, events) == (["A"], [Notice(message="A")])
