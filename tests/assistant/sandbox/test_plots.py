"""Answers that draw, and those that don't: with the libraries themselves, in the sandbox."""

import pytest

from finetune_assistant.sandbox.examples import PLOT_PROMPTS
from finetune_assistant.sandbox.limits import Limits
from finetune_assistant.sandbox.plots import LIBRARIES, draw
from finetune_assistant.sandbox.run import execute

pytestmark = pytest.mark.usefixtures("sandbox")

MAP = """Here is the map:
```python
%matplotlib inline
import geopandas as gpd
import seaborn
import matplotlib
matplotlib.use("TkAgg")
import matplotlib.pyplot as plt
world = gpd.read_file(gpd.datasets.get_path("naturalearth_lowres"))
assert world.equals(gpd.read_file("countries.geojson"))
assert world.is_valid.all() and len(world) > 80 and world.crs.to_epsg() == 4326
world["per_person"] = world.gdp_md_est * 1e6 / world.pop_est
world[world.continent == "Europe"].plot(column="per_person", legend=True)
plt.show()
plt.close()
```"""
TWICE = """```python
import matplotlib.pyplot as plt
plt.bar(["a", "b"], [1, 2])
plt.show()
plt.show()
plt.clf()
plt.scatter([1, 2], [3, 4])
plt.figure()
plt.savefig("empty.png")
print(1 / 0)
```"""


def test_an_answer_with_a_map_is_drawn() -> None:
    plot = draw(MAP)
    assert (plot.ran, plot.drew, plot.error, plot.notes) == (True, True, None, ("%matplotlib inline",)), plot.stderr
    [picture] = plot.pictures
    assert picture.startswith(b"\x89PNG\r\n")


def test_each_figure_is_kept_once_and_an_error_is_told_beside_them() -> None:
    plot = draw(TWICE)
    assert (plot.ran, len(plot.pictures), plot.error) == (False, 2, "ZeroDivisionError: division by zero")
    assert plot.stderr.splitlines()[1] == '  File "answer.py", line 9, in <module>'


def test_a_picture_that_the_program_wrote_itself_counts() -> None:
    [written] = draw(
        '```python\nopen("mine.png", "wb").write(b"\\x89PNG\\r\\n\\x1a\\n" + bytes(9))\nopen("other.png", "w").write("no")\n```'
    ).pictures
    assert written == b"\x89PNG\r\n\x1a\n" + bytes(9)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("I would rather not.", "the answer holds no Python"),
        ("```python\nprint(1)\n```", "it ran and drew nothing"),
        (
            "```python\nimport no_such_library, another\n```",
            f"it imports no_such_library, another, which the sandbox doesn't have; it has {', '.join(LIBRARIES)}",
        ),
        (
            "```python\nimport urllib.request\nurllib.request.urlopen('http://127.0.0.1:9/x.csv')\n```",
            "it wanted the network, which the sandbox doesn't have",
        ),
        ("```python\nimport sys; sys.exit(3)\n```", "it ended with exit status 3"),
        ("```python\nx =\n```", "SyntaxError: invalid syntax"),
    ],
)
def test_what_went_wrong_is_named(answer: str, error: str) -> None:
    plot = draw(answer)
    assert plot.error is not None
    assert plot.error.startswith(error)
    assert not plot.drew


def test_a_limit_is_named() -> None:
    plot = draw("```python\nimport time; time.sleep(60)\n```", limits=Limits(wall_seconds=2.0))
    assert plot.error == "it ran for longer than 2 seconds"


def test_there_is_an_example_of_each_kind() -> None:
    assert [prompt.name for prompt in PLOT_PROMPTS] == ["Bar chart", "Map", "Scatter plot"]


def test_countries_are_whole() -> None:
    """Without geopandas: what the columns that the examples name hold."""
    from finetune_assistant.sandbox import plots

    code = """
import json
features = json.load(open("countries.geojson"))["features"]
names = [f["properties"]["name"] for f in features]
assert len(set(names)) == len(names)
for f in features:
    assert set(f["properties"]) == {"name", "iso_a3", "continent", "pop_est", "gdp_md_est"}
    parts = f["geometry"]["coordinates"]
    rings = parts if f["geometry"]["type"] == "Polygon" else [ring for part in parts for ring in part]
    assert all(ring[0] == ring[-1] and len(ring) > 3 for ring in rings)
    assert all(-180 <= x <= 180 and -90 <= y <= 90 for ring in rings for x, y in ring)
"""
    content = (plots._HERE / "countries.geojson").read_bytes()
    assert len(content) < 60_000
    assert execute(code, files={"countries.geojson": content}).succeeded
