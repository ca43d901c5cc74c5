"""The table of what each field decides: it is whole, and what is made from it is what it was before there was a table."""

from collections.abc import Iterator

from pydantic import BaseModel
from tests.api.jobs import job
from tests.conftest import ROOT

from finetune_api.field_use import FIELDS, Change, selected, table, use_of
from finetune_api.fields import key, kind
from finetune_api.finetunejob import FineTuneJobSpec


def paths(model: type[BaseModel], before: str = "") -> Iterator[str]:
    """Every field of a spec."""
    for name, field in model.model_fields.items():
        path, found = f"{before}{key(name, model)}", kind(field.annotation)
        yield path
        if found.model is not None:
            yield from paths(found.model, f"{path}.")
        if found.is_list and (item := kind(found.item).model) is not None:
            yield from paths(item, f"{path}[].")


def test_every_section_has_a_row_and_every_row_a_field() -> None:
    assert {key(name, FineTuneJobSpec) for name in FineTuneJobSpec.model_fields} <= {use.path for use in FIELDS}
    assert {use.path for use in FIELDS} <= set(paths(FineTuneJobSpec))
    assert len({use.path for use in FIELDS}) == len(FIELDS)


def test_what_decides_the_result_is_executed_and_never_changes() -> None:
    for use in FIELDS:
        assert not use.identity or (use.run and use.change is Change.NEVER), use.path


def test_the_longest_row_counts() -> None:
    assert use_of("workers.image").preparation
    assert not use_of("workers.imagePullPolicy").preparation
    assert use_of("checkpoints.credentialsSecret.name").change is Change.ALWAYS


def test_fields_are_selected_below_lists_and_left_out_where_nothing_of_them_is() -> None:
    spec = job(dataset={"sources": [{"path": "org/data", "tokenSecret": {"name": "hub"}}]}, workers={"nodes": 3}).spec
    found = selected(spec, lambda use: use.identity)
    assert found["dataset"] == {"sources": [{"path": "org/data"}]}
    assert "workers" not in found
    assert selected(spec, lambda use: use.preparation)["dataset"]["sources"][0]["tokenSecret"] == {"name": "hub"}


def test_the_page_has_the_table() -> None:
    told = "docs/operator.md lacks the table; put in what `python -m finetune_api.field_use` prints"
    assert table() in (ROOT / "docs/operator.md").read_text(encoding="utf-8"), told
