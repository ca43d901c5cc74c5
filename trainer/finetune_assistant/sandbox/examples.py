"""Prompts to try a coding assistant's plots with: a bar chart, a map and a scatter plot. Written for this project.

In: nothing. Out: texts that fit what the sandbox has (`plots.py`). The playground offers them; what a model answers is unknown here.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotPrompt:
    """One example. `name` is what a button says."""

    name: str
    prompt: str


PLOT_PROMPTS = (
    PlotPrompt(
        name="Bar chart",
        prompt=(
            "A bakery sold these loaves last week: Monday 64, Tuesday 58, Wednesday 71, Thursday 69, Friday 93, Saturday 120. "
            "Write Python with matplotlib that draws a bar chart of them, highest bar in another colour, with a title and labelled axes."
        ),
    ),
    PlotPrompt(
        name="Map",
        prompt=(
            "The file countries.geojson lies in the current folder. Each country has the columns name, iso_a3, continent, "
            "pop_est (people) and gdp_md_est (GDP in millions of US dollars). Write Python with geopandas that draws a world map, "
            "each country coloured by its GDP per person, with a legend."
        ),
    ),
    PlotPrompt(
        name="Scatter plot",
        prompt=(
            "Write Python with pandas and seaborn that makes up 200 flats with an area between 20 and 140 square metres and a rent "
            "that grows with the area, with some noise and a fixed seed, and draws them as a scatter plot with a fitted line."
        ),
    ),
)
