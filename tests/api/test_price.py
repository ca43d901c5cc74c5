import pytest
from tests.api.jobs import STARCODERBASE, data_shape, job, lines

from finetune_api.errors import InvalidSpec
from finetune_api.plan import plan
from finetune_api.price import cost_of, parse_prices, price_of


def test_a_price_by_gpu_model_however_it_is_spelt():
    prices = parse_prices("a100-80gb: 2.21\nNVIDIA H100 80GB HBM3: 4\n", "prices.yaml")
    assert prices == {"nvidia-a100-80gb": 2.21, "nvidia-h100-80gb": 4.0}
    found = plan(job(), STARCODERBASE, data_shape())
    assert cost_of(found, price_of(found, prices)) == pytest.approx(2.21 * found.gpu_hours)


def test_what_has_no_price_has_no_cost():
    found = plan(job(), STARCODERBASE, data_shape())
    assert price_of(found, parse_prices("", "prices.yaml")) is None
    assert cost_of(found, None) is None
    assert cost_of(plan(job(), STARCODERBASE, None), 2.0) is None  # its hours are unknown


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- 2.21\n", "p: holds no mapping; write a GPU model and dollars an hour in each line: nvidia-a100-80gb: 2.21"),
        ("nvidia-a100-80g: 2\n", "p: nvidia-a100-80g: is not a GPU model that we know; did you mean nvidia-a100-80gb?"),
        ("a100-80gb: cheap\n", "p: a100-80gb: 'cheap' is no price; use dollars for an hour of one GPU, 0 to 1000"),
        ("a100-80gb: true\n", "p: a100-80gb: True is no price; use dollars for an hour of one GPU, 0 to 1000"),
        ("a100-80gb: -1\n", "p: a100-80gb: -1 is no price; use dollars for an hour of one GPU, 0 to 1000"),
        ("a100-80gb: .nan\n", "p: a100-80gb: nan is no price; use dollars for an hour of one GPU, 0 to 1000"),
        ("a100-80gb: 1\nnvidia-a100-80gb: 2\n", "p: nvidia-a100-80gb: nvidia-a100-80gb has a price already; give each model one"),
    ],
)
def test_a_wrong_table_is_refused_with_every_problem(text, problem):
    with pytest.raises(InvalidSpec) as caught:
        parse_prices(text, "p")
    assert lines(caught.value) == [problem]
