"""Events cross processes as JSON and come back equal; a broken sink doesn't take the others with it."""

import json
import math
import pickle
import subprocess
import sys
from dataclasses import dataclass, field

import pytest

from finetune_trainer.reporting.events import (
    CheckpointCommitted,
    EvaluationDone,
    Event,
    FanOut,
    Finished,
    NodesChecked,
    Notice,
    Published,
    Restarted,
    Restarting,
    Resumed,
    StageAdvanced,
    StageStarted,
    StepDone,
    StoppedEarly,
    Stopping,
    evaluation_done,
    from_json,
    to_json,
    to_object,
)

STEP = StepDone(
    step=3,
    total_steps=10,
    epoch=0.3,
    loss=1.25,
    learning_rate=2e-5,
    grad_norm=0.5,
    supervised_tokens=400,
    tokens=1000,
    tokens_per_second=95.5,
    memory_bytes=2**31,
    seconds=10.5,
)
EVERY_EVENT: list[Event] = [
    StageStarted(stage="training", total=10, unit="steps"),
    StageStarted(stage="preparation"),
    StageAdvanced(stage="preparation", done=7, detail="train"),
    Notice(message='3 rows dropped \u2014 "quoted"\nsecond line'),
    STEP,
    EvaluationDone(step=3, epoch=0.3, loss=1.0, perplexity=2.718),
    CheckpointCommitted(step=3, seconds=1.5, bytes=123, key="checkpoints/step-00000003/attempt-0001"),
    NodesChecked(seconds=5.2, slow_hosts=["w1"]),
    Resumed(step=3, attempt=2),
    Restarting(reason="WorkerLost", message="w1 left Ray", hosts=["w1"]),
    Restarted(count=2, charged=1, seconds=35.5),
    Stopping(reason="SIGTERM"),
    StoppedEarly(step=9, total_steps=20, loss=1.5, best_step=3, best_loss=1.25, message="stopped early"),
    Published(where="org/name", revision="abc"),
    Finished(model="runs/x/model", report="runs/x/report.html", step=10, loss=0.5, evaluation_loss=None, seconds=99.0),
]


@dataclass
class RecordingSink:
    events: list[Event] = field(default_factory=list)
    closed: int = 0

    def record(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        self.closed += 1


class FullDisk(RecordingSink):
    def record(self, event: Event) -> None:
        super().record(event)
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("event", EVERY_EVENT, ids=lambda event: event.kind)
def test_event_survives_json_and_pickle(event: Event) -> None:
    line = to_json(event)
    assert "\n" not in line
    assert json.loads(line)["kind"] == type(event).__name__
    assert from_json(line) == event
    assert pickle.loads(pickle.dumps(event)) == event


def test_every_kind_of_event_is_tried() -> None:
    assert {type(event) for event in EVERY_EVENT} == set(Event.__args__)


def test_numbers_that_json_cannot_hold_are_null_and_come_back_as_nan() -> None:
    line = to_json(evaluation_done(step=1, epoch=1.0, loss=math.inf))
    assert json.loads(line, parse_constant=pytest.fail)["loss"] is None
    back = from_json(line)
    assert isinstance(back, EvaluationDone)
    assert math.isnan(back.loss)
    assert back.perplexity is None


def test_a_newer_event_with_more_fields_can_be_read() -> None:
    assert from_json(json.dumps(to_object(STEP) | {"flops": 3.0})) == STEP


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1]", "an event is a JSON object"),
        ("{}", "unknown event kind None; known: StageStarted"),
        ('{"kind": "Nope"}', "unknown event kind 'Nope'"),
        ('{"kind": ["StepDone"]}', "unknown event kind"),
        ('{"kind": "Notice"}', "Notice: .*message"),
        ('{"kind": "Not', "Unterminated"),
    ],
)
def test_what_is_no_event_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        from_json(text)


@pytest.mark.parametrize(
    ("loss", "perplexity", "note"),
    [
        (0.0, 1.0, ""),
        (math.log(7), pytest.approx(7.0), ""),
        (709.0, pytest.approx(math.exp(709)), ""),
        (710.0, None, "perplexity exp(710) is too large for a number"),
        (math.nan, None, "the loss is not finite, so it has no perplexity"),
        (math.inf, None, "the loss is not finite, so it has no perplexity"),
    ],
)
def test_perplexity(loss: float, perplexity: float | None, note: str) -> None:
    event = evaluation_done(step=1, epoch=1.0, loss=loss)
    assert (event.perplexity, event.note) == (perplexity, note)


def test_fan_out_sends_everything_to_all() -> None:
    sinks = [RecordingSink(), RecordingSink()]
    fan_out = FanOut(sinks)
    for event in EVERY_EVENT:
        fan_out.record(event)
    fan_out.close()
    assert [sink.events for sink in sinks] == [EVERY_EVENT, EVERY_EVENT]
    assert [sink.closed for sink in sinks] == [1, 1]


def test_a_sink_that_fails_is_left_out_and_the_others_are_told() -> None:
    broken, sound = FullDisk(), RecordingSink()
    fan_out = FanOut([broken, sound])
    fan_out.record(STEP)
    fan_out.record(STEP)
    fan_out.close()
    assert broken.events == [STEP]
    assert broken.closed == 0
    notice = Notice(message="FullDisk stopped recording: [Errno 28] No space left on device")
    assert sound.events == [notice, STEP, STEP]


def test_importing_progress_and_metrics_imports_nothing_heavy() -> None:
    code = "import sys, finetune_trainer.reporting.metrics; print(sorted({'torch', 'numpy', 'tensorboard', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
