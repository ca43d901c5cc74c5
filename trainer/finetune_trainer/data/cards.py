"""What the README.md of a model or a data set says of itself: licence, tags, how to cite it.

In: a text in the Hub's form, YAML between two lines of dashes and then Markdown, which anybody may have written. Out: a `HubCard`, of
bounded size. What a card doesn't say stays unknown: nothing is guessed from names.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

README: Final = "README.md"
LONGEST_README: Final = 2**20  # characters
_MATTER: Final = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_FENCED: Final = re.compile(r"^(`{3,}|~{3,})[^\n]*\n(.*?)^\1", re.DOTALL | re.MULTILINE)
_ENTRY: Final = re.compile(r"@[A-Za-z]+\s*\{")
_UNPRINTED: Final = dict.fromkeys((*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0)))
_LONGEST_WORD: Final = 256
_MOST_WORDS: Final = 256
_MOST_LICENCES: Final = 8
_LONGEST_CITATION: Final = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class HubCard:
    """What a card says. Empty where it says nothing, or where there is none.

    `licences` are the Hub's ids, of which `other` has a name and a link. `citation` is BibTeX, as the authors wrote it. `tags` are the
    words of its tags, languages and metrics.
    """

    licences: tuple[str, ...] = ()
    licence_name: str = ""
    licence_link: str = ""
    tags: tuple[str, ...] = ()
    citation: str = ""

    @property
    def is_of_code(self) -> bool:
        """Whether the card says so itself: by the tag or language `code`, or by the Hub's metric for programs."""
        return not {"code", "code_eval"}.isdisjoint(self.tags)

    def to_json(self) -> dict[str, Any]:
        """For meta.json of prepared data."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> "HubCard":
        """What `to_json` wrote; of anything else what can be read of it."""
        value = value if isinstance(value, Mapping) else {}
        return cls(
            licences=_words(value.get("licences"))[:_MOST_LICENCES],
            licence_name=_word(value.get("licence_name")),
            licence_link=_word(value.get("licence_link")),
            tags=_words(value.get("tags")),
            citation=_citation([value.get("citation")]),
        )


def hub_card(readme: str) -> HubCard:
    """The card of a README.md."""
    matter = _matter(readme)
    return HubCard(
        licences=_words(matter.get("license"))[:_MOST_LICENCES],
        licence_name=_word(matter.get("license_name")),
        licence_link=_word(matter.get("license_link")),
        tags=(*_words(matter.get("tags")), *_words(matter.get("language")), *_words(matter.get("metrics")))[:_MOST_WORDS],
        citation=_citation([content for _, content in _FENCED.findall(readme)]),
    )


def _matter(readme: str) -> Mapping[Any, Any]:
    import yaml

    found = _MATTER.match(readme)
    try:
        matter = yaml.safe_load(found.group(1)) if found else None
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date that is none
        matter = None
    return matter if isinstance(matter, dict) else {}


def _citation(texts: Sequence[object]) -> str:
    """The BibTeX entries among `texts`, whole ones only; none when they are too long to be quoted."""
    entries = [text.translate(_UNPRINTED).strip() for text in texts if isinstance(text, str) and _ENTRY.match(text.lstrip())]
    whole = "\n\n".join(entry for entry in entries if entry.count("{") == entry.count("}"))
    return whole if len(whole) <= _LONGEST_CITATION else ""


def _word(value: object) -> str:
    """A text of one line, or nothing."""
    text = " ".join(value.translate(_UNPRINTED).split()) if isinstance(value, str) else ""
    return text if len(text) <= _LONGEST_WORD else ""


def _words(value: object) -> tuple[str, ...]:
    """A text, or a list of them."""
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(word for word in map(_word, values[:_MOST_WORDS]) if word)
