"""Each alert against series that a fault makes, and against those of a day without any: by Prometheus' own program for it.

That the operator and kube-state-metrics make such series when the fault is there is shown in tests/control_plane: test_series.py and
test_operator_series.py.
"""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from charts.generate import ALERTS
from tests.control_plane.prometheus import installed

pytestmark = pytest.mark.control_plane

MINUTES = 400
_OPERATOR = 'namespace="finetune-system", instance="a"'
_JOB = 'namespace="ml", name="starchat"'


def steady(value: float) -> str:
    """A series that stays, each minute a sample."""
    return f"{value}x{MINUTES}"


def rising(each: float, start: float = 0) -> str:
    """A series that rises by as much every minute."""
    return f"{start}+{each}x{MINUTES}"


def condition(kind: str, reason: str) -> str:
    return f'finetune_job_condition{{{_JOB}, type="{kind}", reason="{reason}"}}'


WELL = {
    f'leader_election_master_status{{{_OPERATOR}, name="finetune-operator"}}': steady(1),
    'leader_election_master_status{namespace="finetune-system", instance="b", name="finetune-operator"}': steady(0),
    # Another program's lease that nobody holds, and its calls, of which half fail.
    'leader_election_master_status{namespace="kuberay", instance="k", name="ray-operator-leader"}': steady(0),
    'rest_client_requests_total{namespace="kuberay", instance="k", code="200", method="GET"}': rising(10),
    'rest_client_requests_total{namespace="kuberay", instance="k", code="500", method="GET"}': rising(10),
    f'controller_runtime_reconcile_total{{{_OPERATOR}, controller="finetunejob", result="success"}}': rising(60),
    f'controller_runtime_reconcile_total{{{_OPERATOR}, controller="finetunejob", result="error"}}': rising(1),
    f'controller_runtime_reconcile_errors_total{{{_OPERATOR}, controller="finetunejob"}}': rising(1),
    f'controller_runtime_reconcile_panics_total{{{_OPERATOR}, controller="finetunejob"}}': steady(0),
    f'controller_runtime_active_workers{{{_OPERATOR}, controller="finetunejob"}}': f"0 1 {steady(1)}",
    f'rest_client_requests_total{{{_OPERATOR}, code="200", method="PATCH"}}': rising(100),
    f'rest_client_requests_total{{{_OPERATOR}, code="503", method="PATCH"}}': rising(1),
    f"finetune_unreadable_statuses{{{_OPERATOR}}}": steady(0),
    f'finetune_jobs{{{_OPERATOR}, stage="Training", reason="Training"}}': steady(1),
    f"finetune_job_created_timestamp_seconds{{{_JOB}}}": steady(0),
    condition("Trained", "Training"): steady(0),
    condition("Published", "Waiting"): steady(0),
    condition("Stalled", "NotStalled"): steady(0),
    condition("Failed", "NotFinished"): steady(0),
    condition("Reconciling", "InProgress"): steady(1),
    f"finetune_job_step{{{_JOB}}}": rising(2),
    f"finetune_job_attempts{{{_JOB}}}": steady(2),
    f"finetune_job_gpu_hours{{{_JOB}}}": rising(0.05),
    f"finetune_job_budget_gpu_hours{{{_JOB}}}": steady(100),
    f"finetune_job_checkpoint_timestamp_seconds{{{_JOB}}}": rising(60),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """`series` of WELL are replaced (None: gone). The alert isn't there `before` minutes, and is there at `then`, with these labels."""

    series: dict[str, str | None]
    then: int
    labels: dict[str, str]
    before: int | None = None
    also: tuple[str, ...] = ()


_THEIRS = {"namespace": "ml", "name": "starchat"}
_OURS = {"namespace": "finetune-system"}
_NO_OPERATOR = {name: None for name in WELL if 'namespace="finetune-system"' in name}
_IN_TRAINING = {condition("Trained", "Training"): None}
_AT_END = {condition("Reconciling", "InProgress"): None, condition("Trained", "Training"): None}

FAULTS = {
    "FineTuneOperatorDown": Fault(series=_NO_OPERATOR, before=4, then=6, labels={}),
    "FineTuneOperatorNotLeading": Fault(
        series={f'leader_election_master_status{{{_OPERATOR}, name="finetune-operator"}}': steady(0)},
        before=4,
        then=6,
        labels=_OURS | {"name": "finetune-operator"},
    ),
    "FineTuneOperatorReconcilesFail": Fault(
        series={
            f'controller_runtime_reconcile_total{{{_OPERATOR}, controller="finetunejob", result="error"}}': rising(60),
            f'controller_runtime_reconcile_errors_total{{{_OPERATOR}, controller="finetunejob"}}': rising(60),
        },
        before=9,
        then=13,
        labels=_OURS,
    ),
    "FineTuneOperatorFault": Fault(
        series={f'controller_runtime_reconcile_panics_total{{{_OPERATOR}, controller="finetunejob"}}': f"0x10 1x{MINUTES}"},
        before=9,
        then=12,
        labels=_OURS,
    ),
    "FineTuneOperatorApiErrors": Fault(
        series={f'rest_client_requests_total{{{_OPERATOR}, code="503", method="PATCH"}}': rising(20)}, before=9, then=13, labels=_OURS
    ),
    "FineTuneOperatorQueueStuck": Fault(
        series={
            f'controller_runtime_reconcile_total{{{_OPERATOR}, controller="finetunejob", result="success"}}': f"0+60x10 600x{MINUTES}",
            f'controller_runtime_reconcile_total{{{_OPERATOR}, controller="finetunejob", result="error"}}': steady(0),
            f'controller_runtime_reconcile_errors_total{{{_OPERATOR}, controller="finetunejob"}}': steady(0),
        },
        before=12,
        then=20,
        labels=_OURS | {"instance": "a", "controller": "finetunejob"},
    ),
    "FineTuneJobStatusUnreadable": Fault(
        series={f"finetune_unreadable_statuses{{{_OPERATOR}}}": steady(2)}, before=4, then=6, labels=_OURS
    ),
    "FineTuneJobSeriesAbsent": Fault(series={name: None for name in WELL if _JOB in name}, before=14, then=16, labels={}),
    "FineTuneJobStalled": Fault(
        series={condition("Stalled", "NotStalled"): None, condition("Stalled", "NameTaken"): steady(1)} | _AT_END,
        before=4,
        then=6,
        labels=_THEIRS | {"type": "Stalled", "reason": "NameTaken"},
    ),
    "FineTuneJobFailed": Fault(
        series={
            condition("Failed", "NotFinished"): None,
            condition("Failed", "InvalidData"): steady(1),
            # A failed job is stalled, too.
            condition("Stalled", "NotStalled"): None,
            condition("Stalled", "InvalidData"): steady(1),
            f"finetune_job_completion_timestamp_seconds{{{_JOB}}}": steady(0),
        }
        | _AT_END,
        then=2,
        labels=_THEIRS | {"type": "Failed", "reason": "InvalidData"},
    ),
    "FineTuneJobNoProgress": Fault(
        series={f"finetune_job_step{{{_JOB}}}": f"0+1x20 20x{MINUTES}"},
        before=75,
        then=85,
        labels=_THEIRS | {"type": "Trained", "reason": "Training"},
    ),
    "FineTuneJobStartsLate": Fault(
        series=_IN_TRAINING | {condition("Trained", "Starting"): steady(0)},
        before=29,
        then=31,
        labels=_THEIRS | {"type": "Trained", "reason": "Starting"},
    ),
    "FineTuneJobAttemptsRepeated": Fault(
        series={f"finetune_job_attempts{{{_JOB}}}": f"1x30 2x30 3x30 4x{MINUTES}"}, before=80, then=120, labels=_THEIRS
    ),
    "FineTuneJobRejected": Fault(
        series=_IN_TRAINING | {condition("Trained", "Rejected"): steady(0)},
        before=14,
        then=16,
        labels=_THEIRS | {"type": "Trained", "reason": "Rejected"},
    ),
    "FineTuneJobNotPublished": Fault(
        series={
            condition("Trained", "Training"): None,
            condition("Reconciling", "InProgress"): None,
            condition("Trained", "Trained"): steady(1),
            condition("Published", "Waiting"): None,
            condition("Published", "GateClosed"): steady(0),
            condition("Failed", "NotFinished"): None,
            condition("Failed", "GateClosed"): steady(1),
            condition("Stalled", "NotStalled"): None,
            condition("Stalled", "GateClosed"): steady(1),
            f"finetune_job_completion_timestamp_seconds{{{_JOB}}}": steady(0),
        },
        then=100,
        labels=_THEIRS | {"type": "Failed", "reason": "GateClosed"},
    ),
    "FineTuneJobCheckpointOld": Fault(
        series={f"finetune_job_checkpoint_timestamp_seconds{{{_JOB}}}": steady(0)},
        before=240,
        then=250,
        labels=_THEIRS | {"type": "Trained", "reason": "Training"},
    ),
    "FineTuneJobBudgetNearlyUsed": Fault(
        series={f"finetune_job_budget_gpu_hours{{{_JOB}}}": steady(1)}, before=10, then=30, labels=_THEIRS
    ),
}
RULES = [rule for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]
# The failed job's hour.
_FORGOTTEN = 61


def test_every_alert_has_a_fault() -> None:
    assert set(FAULTS) == {rule["alert"] for rule in RULES}


def test_alerts_fire_by_their_faults_and_no_other_does(tmp_path: Path) -> None:
    """All alerts are looked at in each world: what a fault sets off is that alone."""
    worlds = [world("a day without a fault", {}, {minute: {} for minute in (1, 10, 60, 300)})]
    for name, fault in FAULTS.items():
        moments = {fault.then: {name: [fault.labels]}} | ({fault.before: {}} if fault.before is not None else {})
        worlds.append(world(name, fault.series, moments | ({_FORGOTTEN: {}} if name == "FineTuneJobFailed" else {})))
    # promtool compares annotations, too; they are looked at below.
    groups = [{"name": "all", "rules": [{key: value for key, value in rule.items() if key != "annotations"} for rule in RULES]}]
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump({"groups": groups}))
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({"rule_files": ["alerts.yaml"], "evaluation_interval": "1m", "tests": worlds}))
    done = subprocess.run([installed("promtool"), "test", "rules", tmp_path / "tests.yaml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def world(name: str, changes: dict[str, str | None], moments: dict[int, dict[str, list[dict[str, str]]]]) -> dict[str, object]:
    """One of promtool's tests: of all alerts, at each moment only these fire."""
    series = {**WELL, **changes}
    asked = [
        {"eval_time": f"{minute}m", "alertname": rule["alert"], "exp_alerts": alerts(rule, fire.get(rule["alert"], []))}
        for minute, fire in moments.items()
        for rule in RULES
    ]
    kept = [{"series": what, "values": values} for what, values in series.items() if values is not None]
    return {"name": name, "interval": "1m", "input_series": kept, "alert_rule_test": asked}


def alerts(rule: dict[str, object], found: list[dict[str, str]]) -> list[dict[str, object]]:
    """As promtool wants to see them."""
    labels = rule["labels"]
    assert isinstance(labels, dict)
    return [{"exp_labels": labels | each} for each in found]


def test_alerts_say_what_to_do() -> None:
    """A line for a pager, a sentence with the remedy, and no label that the series don't have."""
    for rule in RULES:
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}
        named = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        assert named <= set(FAULTS[rule["alert"]].labels), rule["alert"]
