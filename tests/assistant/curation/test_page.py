"""The page: numbers as a reader sees them, nothing loaded, and text of rows never as markup."""

import re
from pathlib import Path

from tests.assistant.curation.rows import dialogue

from finetune_assistant.curation.contamination import Hit
from finetune_assistant.curation.page import DataPage, page_html, write_page
from finetune_assistant.curation.pipeline import Examined
from finetune_assistant.curation.statistics import Statistics

EVIL = "<script>alert(1)</script>"


def measured() -> Statistics:
    statistics = Statistics()
    for number in range(50):
        statistics.add(Examined(dialogue("question " * (number + 1), "answer", row=number), language="en" if number % 5 else "de"))
    return statistics


def tiles(page: str) -> dict[str, str]:
    return dict(re.findall(r'<span class="label">(.+?)</span><b>(.+?)</b>', page))


def test_what_a_reader_sees() -> None:
    page = page_html(
        DataPage(
            title="Rows",
            statistics=measured(),
            not_used={"trailing user turn": 2, "wrong row": 1},
            places={"wrong row": "rows.jsonl row 9"},
            wrong=["rows.jsonl row 9: message 1: unknown role 'oracle'"],
            near_duplicates=5,
            contaminated_rows=1,
            hits=[Hit(source="rows.jsonl", row=3, evaluation_set="set.jsonl", document=4, words="the words")],
            num_hits=3,
        )
    )
    assert tiles(page) == {
        "rows": "50",
        "characters": "11.8 k",
        "learnt": "3%",
        "near-duplicates": "10.0%",
        "in evaluation sets": "1",
        "not used": "3",
    }
    assert page.count("<svg") == 3
    assert re.search(r"<td>en</td><td class=\"number\">40</td>.*80\.0 %", page)
    assert page.index("trailing user turn") < page.index("rows.jsonl row 9")
    assert "unknown role &#39;oracle&#39;" in page
    assert "<td>the words</td>" in page
    assert "and 2 more" in page


def test_it_loads_nothing_and_runs_nothing() -> None:
    statistics = measured()
    statistics.add(Examined(dialogue("a", "b")._replace(source=EVIL), language=EVIL))
    page = page_html(DataPage(title=EVIL, statistics=statistics, not_used={EVIL: 1}, places={EVIL: EVIL}, wrong=[EVIL]))
    assert "<script" not in page
    assert not re.search(r"(?:src|href)\s*=|url\(|@import", page)
    assert "default-src 'none'" in page


def test_rows_without_anything_make_a_page_too(tmp_path: Path) -> None:
    write_page(DataPage(title="none \ud800", statistics=Statistics()), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "everything is used" in page
    assert "languages were not looked at" in page
    assert "<title>none ?</title>" in page


def test_tokens_have_a_chart_where_they_were_counted() -> None:
    statistics = measured()
    statistics.add_tokens(100, 30)
    page = page_html(DataPage(title="Rows", statistics=statistics))
    assert page.count("<svg") == 4
    assert tiles(page)["learnt"] == "30%"
