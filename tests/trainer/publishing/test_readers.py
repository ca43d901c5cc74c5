"""Programs that read the exported folder see what the installed Transformers sees. `make readers` tries more programs and more models."""

import pytest
from tests.readers import mlx_reader, transformers_reader
from tests.readers.environments import packages
from tests.readers.models import exported
from tests.readers.readings import Reading, difference, read_by

# One of each way in which a folder is written.
MODELS = (
    "llama, plain",
    "llama, llama3",
    "llama, written by Transformers 4",
    "gemma3, two frequencies",
    "mixtral, experts in tensors of their own",
    "gpt_bigcode, one head of keys, learned positions",
)
# What mlx-lm 0.32 knows of them.
MLX = ("llama, llama3", "llama, written by Transformers 4", "mixtral, experts in tensors of their own")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("readers")
    return {name: str(exported(name, place / str(number))) for number, name in enumerate(MODELS)}


@pytest.fixture(scope="module")
def ours(folders: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Reading:
    reading = read_by(transformers_reader, folders, tmp_path_factory.mktemp("ours"))
    assert reading.version.startswith("5.")
    return reading


@pytest.fixture(scope="module")
def transformers_4(folders: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Reading:
    reading = read_by(transformers_reader, folders, tmp_path_factory.mktemp("theirs"), packages("readers-transformers4"))
    assert reading.version.startswith("4.")
    return reading


@pytest.fixture(scope="module")
def mlx(folders: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Reading:
    return read_by(mlx_reader, {name: folders[name] for name in MLX}, tmp_path_factory.mktemp("mlx"), packages("readers-mlx"))


@pytest.mark.parametrize("name", MODELS)
def test_transformers_4_gets_the_same_ids_logits_and_stops(name: str, ours: Reading, transformers_4: Reading) -> None:
    assert len(ours.models[name]["stops"]) == 4
    assert difference(ours.models[name], transformers_4.models[name]) == ""


@pytest.mark.parametrize("name", MLX)
def test_an_engine_without_pytorch_gets_the_same(name: str, ours: Reading, mlx: Reading) -> None:
    assert difference(ours.models[name], mlx.models[name]) == ""


def test_a_difference_is_seen(ours: Reading) -> None:
    one, other = (ours.models[name] for name in ("llama, llama3", "llama, written by Transformers 4"))
    assert "logits off by" in difference(one, other)
    assert difference(one, {"error": "KeyError: rope"}) == "refused: KeyError: rope"
    assert difference(one, {**one, "stops": one["stops"][:1]}) == "stops"
