"""The operator's flags and their variables."""

import re
from pathlib import Path

import pytest
from tests.conftest import ROOT

from finetune_operator.settings import RAY_VERSION, NetworkRules, Settings, settings

IMAGE = ["--trainer-image", "trainer:1"]


def test_defaults() -> None:
    assert settings(IMAGE, {}) == Settings(trainer_image="trainer:1")


def test_a_flag_wins_over_its_variable() -> None:
    environment = {"FINETUNE_OPERATOR_TRAINER_IMAGE": "trainer:1", "FINETUNE_OPERATOR_HTTP_PORT": "1"}
    found = settings(["--http-port", "2"], environment)
    assert (found.trainer_image, found.http_port) == ("trainer:1", 2)


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        (["--namespaces", "b, a,b"], "namespaces", ("a", "b")),
        (["--namespaces", "*"], "namespaces", None),
        (["--image-pull-secrets", "x,y"], "image_pull_secrets", ("x", "y")),
        (["--image-pull-policy", "Never"], "image_pull_policy", "Never"),
        (["--leader-election", "false"], "leader_election", False),
        (["--stop-seconds", "60"], "stop_seconds", 60),
        (["--kubeconfig", "/k"], "kubeconfig", Path("/k")),
        (["--sandbox-profile", "profiles/sandbox.json"], "sandbox_profile", "profiles/sandbox.json"),
        (["--operator-namespace", "mine"], "operator_namespace", "mine"),
        (["--prices", '{"a100-80gb":2.21}'], "prices", {"nvidia-a100-80gb": 2.21}),
        (["--ray-version", "2.61.1"], "ray_version", "2.61.1"),
        (["--concurrent-reconciles", "8"], "concurrent_reconciles", 8),
        (["--job-network-policy", '{"ingress": [], "egress": [{}]}'], "job_network_policy", NetworkRules(ingress=(), egress=({},))),
    ],
)
def test_values(arguments: list[str], field: str, value: object) -> None:
    assert getattr(settings([*IMAGE, *arguments], {}), field) == value
    variable = {"FINETUNE_OPERATOR_" + field.upper(): arguments[1]}
    assert getattr(settings(IMAGE, variable), field) == value


@pytest.mark.parametrize(
    ("arguments", "environment", "told"),
    [
        ([], {}, "--trainer-image is missing"),
        ([*IMAGE, "--http-port", "70000"], {}, "--http-port=70000: use a whole number from 0 to 65535"),
        (IMAGE, {"FINETUNE_OPERATOR_STOP_SECONDS": "4m"}, "FINETUNE_OPERATOR_STOP_SECONDS=4m: use a whole number"),
        ([*IMAGE, "--leader-election", "yes"], {}, "--leader-election=yes: use one of true, false"),
        ([*IMAGE, "--namespaces", "a,B"], {}, "--namespaces=a,B: use at most 63"),
        ([*IMAGE, "--ray-version", "2.52.0"], {}, "--ray-version=2.52.0: use the version of the image's Ray"),
        ([*IMAGE, "--image-pull-policy", "never"], {}, "use one of Always, IfNotPresent, Never"),
        ([*IMAGE, "--job-network-policy", '{"egress": []}'], {}, 'use {"ingress": [...], "egress": [...]}'),
        ([*IMAGE, "--job-network-policy", "none"], {}, "as JSON"),
        (
            [*IMAGE, "--sandbox-profile", "/var/lib/kubelet/seccomp/sandbox.json"],
            {},
            "use a file's path below the kubelet's seccomp folder",
        ),
        ([*IMAGE, "--sandbox-profile", "../sandbox.json"], {}, "use a file's path below the kubelet's seccomp folder"),
        ([*IMAGE, "--unknown", "1"], {}, "unrecognized arguments"),
    ],
)
def test_refused(arguments: list[str], environment: dict[str, str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        settings(arguments, environment)
    assert exit_.value.code == 2
    assert told in capsys.readouterr().err


def test_kuberay_is_told_the_ray_that_the_trainers_image_has() -> None:
    pinned = (ROOT / "requirements/trainer.txt").read_text(encoding="utf-8")
    assert re.search(rf"^ray(\[[a-z,]+\])?=={re.escape(RAY_VERSION)} ", pinned, re.MULTILINE)


def test_every_setting_has_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        settings(["--help"], {})
    shown = capsys.readouterr().out
    for field in Settings.__dataclass_fields__:
        assert "--" + field.replace("_", "-") in shown
