"""finetune_trainer/model/four_bits.py; what trains beside it is in training/test_adapters.py, what comes out in test_adapter_folder.py."""

import sys
from pathlib import Path

import pytest
from tests.trainer.adapter_runs import LORA, engine
from tests.trainer.architectures import gpt_bigcode, llama, random_rows, save_random
from tests.trainer.engine_runs import steps

from finetune_api.errors import InvalidModel
from finetune_trainer.model.adapters import share_trained
from finetune_trainer.model.four_bits import check_available

# PEFT 0.21 on Transformers 5.23.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def test_where_bitsandbytes_is_not_there_the_field_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_available("spec.training.method: qlora")
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    told = r"spec.training.method: qlora needs the package bitsandbytes, which does not run here .*; install it"
    with pytest.raises(InvalidModel, match=told):
        check_available("spec.training.method: qlora")


@pytest.mark.parametrize("kind", ["qlora", pytest.param("qdora", marks=pytest.mark.thorough)])
def test_an_evaluation_between_steps_changes_nothing(tmp_path: Path, kind: str) -> None:
    """bitsandbytes' own layer gives no gradient once it has evaluated on a CPU that knows bf16."""
    folder = save_random(llama(), tmp_path / "llama")
    one, other = (engine(folder, LORA[kind], method="qlora") for _ in range(2))
    first = steps(one, 1)
    assert one.evaluate(random_rows(2, seed=9))[0] > 0
    assert [*first, *steps(one, 2)] == steps(other, 3)


def test_a_rank_holds_layers_in_bytes_and_the_rest_as_it_is(tmp_path: Path) -> None:
    trained = engine(save_random(gpt_bigcode(), tmp_path / "model"), LORA["qlora"], method="qlora")
    parameters = dict(trained._model.named_parameters())  # type: ignore[attr-defined]
    in_bytes = {name for name, one in parameters.items() if one.element_size() == 1}
    assert in_bytes == {name for name in parameters if name.endswith("base_layer.weight") and "wte" not in name}
    weights = 2 * (36 * (36 + 2 * 12) + 36 * 36 + 2 * 36 * 50)
    assert f"{weights:,} of which are kept in 4 bits" in share_trained(trained._model)  # type: ignore[attr-defined]
