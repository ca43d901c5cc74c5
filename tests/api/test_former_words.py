"""The definition against that of the first chart: what an upgrade must keep, and what its operator must not find in its jobs."""

import subprocess
from typing import Any

import pytest
import yaml
from tests.conftest import ROOT
from tests.upgrade.former import FORMER, is_at_hand

from finetune_api.crd import finetunejobs
from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.former_words import LATER_FIELDS
from finetune_api.structural import structural

Json = dict[str, Any]
needs_history = pytest.mark.skipif(not is_at_hand(), reason=f"the history doesn't go back to {FORMER}: git fetch --unshallow")
# What the first operator refused, as not built yet, or as no value of a Hub's: no job of its has begun with them.
NEVER_BEGAN = (
    "training.lora",  # its keys were others
    "evaluation.benchmarks",
    "evaluation.judge",
    "publish.hub.when",
)


def below(schema: Json, path: str = "") -> dict[str, Json]:
    """Schemas of all fields of a spec by their paths."""
    found = {}
    for name, field in schema.get("properties", {}).items():
        where = f"{path}.{name}" if path else name
        found |= {where: field} | below(field, where) | below(field.get("items", {}), f"{where}[]")
    return found


def spec_of(crd: Json) -> dict[str, Json]:
    return below(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"])


def former_spec() -> dict[str, Json]:
    command = ["git", "-C", ROOT, "show", f"{FORMER}:manifests/crd/finetunejobs.yaml"]
    return spec_of(yaml.safe_load(subprocess.run(command, capture_output=True, check=True).stdout))


def test_a_later_field_is_one_whose_default_the_models_have() -> None:
    defaults = below(structural(FineTuneJobSpec))
    assert {path for path in LATER_FIELDS if "default" not in defaults.get(path, {})} == set()


@needs_history
def test_the_api_server_adds_nothing_to_a_job_that_the_first_operator_does_not_know() -> None:
    former, today = former_spec(), spec_of(finetunejobs())
    known = {"", *former, *(f"{path}[]" for path in former)}
    added = {path for path, field in today.items() if "default" in field and path not in former and path.rpartition(".")[0] in known}
    # Free-form there: what is in them, it passes on.
    assert {
        path for path in added if not path.startswith(("workers.topologySpreadConstraints", "cpuPods.topologySpreadConstraints"))
    } == set()


@needs_history
def test_the_api_server_drops_nothing_of_a_job_that_the_first_operator_began() -> None:
    dropped = set(former_spec()) - set(spec_of(finetunejobs()))
    assert {path for path in dropped if not path.startswith(NEVER_BEGAN)} == set()
