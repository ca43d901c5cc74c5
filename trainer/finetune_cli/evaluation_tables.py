"""The tables of `finetune evaluate`: numbers with what they depend on, and differences with their intervals.

In: an Evaluation. Out: characters. Every number is in the JSON; here are those that were asked for, of each benchmark the one that
leaderboards show.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from finetune_cli.cluster.options import console

if TYPE_CHECKING:
    from finetune_assistant.evaluation.results import Difference, Evaluation, Measurement


def print_tables(found: "Evaluation") -> None:
    """One table of numbers, a column a model, and where there are several models one of differences."""
    from rich.table import Table

    several = len(found.models) > 1
    head = ["task", "metric", "shots", "documents", *(model.model if several else "value" for model in found.models)]
    table = Table(*head, box=None, pad_edge=False, header_style="bold")
    for row in _rows(found):
        table.add_row(*row)
    console().print(table)
    if several:
        _print_differences(found)


def _rows(found: "Evaluation") -> Iterator[list[str]]:
    columns = [{(one.task, one.metric): one for one in model.results} for model in found.models]
    for key in dict.fromkeys(key for column in columns for key in column):
        here = [column.get(key) for column in columns]
        one = next(each for each in here if each is not None)
        if one.group is None and _is_shown(one):
            asked = f"{one.documents:,}" if one.documents == one.documents_there else f"{one.documents:,} of {one.documents_there:,}"
            yield [one.task, one.metric, str(one.shots), asked, *map(value_of, here)]


def _print_differences(found: "Evaluation") -> None:
    from rich.table import Table

    groups = {(one.task, one.metric): one.group for model in found.models for one in model.results}
    shown = [each for each in found.differences if groups[each.task, each.metric] is None and _is_shown(each)]
    if not shown:
        return
    several = len(found.models) > 2
    table = Table(*(["model"] if several else []), "task", "metric", box=None, pad_edge=False, header_style="bold")
    table.add_column("difference", justify="right")
    table.add_column("95 % interval", no_wrap=True)
    table.add_column("")
    for each in shown:
        span = f"{_signed(each.low)} to {_signed(each.high)}"
        table.add_row(*([each.tuned] if several else []), each.task, each.metric, _signed(each.difference), span, each.verdict)
    print(f"\n{'the others' if several else found.models[1].model} against {found.models[0].model}, on the same documents:")
    console().print(table)


def _is_shown(one: "Measurement | Difference") -> bool:
    """Whether it is the number of its benchmark that leaderboards show; lm-eval's other tasks show all of theirs."""
    from finetune_assistant.evaluation.tasks import STANDARDS

    return one.task not in STANDARDS or one.metric == STANDARDS[one.task].metric


def value_of(one: "Measurement | None") -> str:
    """A number with its standard error, where it has one; nothing where a model has no such number."""
    if one is None:
        return ""
    return f"{one.value:.4g}" if one.standard_error is None else f"{one.value:.4f} \N{PLUS-MINUS SIGN}{one.standard_error:.4f}"


def _signed(value: float) -> str:
    """With its sign, and no sign for nothing.

    >>> _signed(0.25), _signed(-1e-9)
    ('+0.2500', '0.0000')
    """
    return f"{value:+.4f}" if abs(value) >= 5e-5 else "0.0000"
