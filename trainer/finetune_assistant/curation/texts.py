"""The text of a parsed row, as the filters read it.

In: a dialogue or document. Out: its text without system messages, which many rows share word for word, or what of it is new beside the
path of the same tree before it. A row that was tokenised elsewhere has no text, and is refused.
"""

from collections.abc import Iterator

from finetune_api.errors import InvalidData
from finetune_trainer.data.dialogues import Dialogue, Document, Message, Parsed


def spoken(item: Parsed) -> tuple[str, ...]:
    """The texts of a row in their order: of each message but the system's, or of the document. Raises InvalidData for tokens."""
    if isinstance(item, Dialogue):
        return tuple([message.content for message in item.messages if message.role != "system"])
    if isinstance(item, Document):
        return (item.text,)
    raise InvalidData(
        f"{item.source} row {item.row}: the row is tokens, which have no text to filter, compare or show; "
        "give the rows that they were made of, or leave these options out"
    )


class NewText:
    """What of each row no earlier path of its tree holds: the paths of an OASST tree begin alike and come one after the other."""

    def __init__(self) -> None:
        self._tree: tuple[str, str] | None = None
        self._met: set[str] = set()

    def of(self, item: Parsed) -> str:
        """The texts of the row that are new, a line each; all of them where messages have no ids."""
        if not isinstance(item, Dialogue) or item.messages[0].id is None:
            return "\n".join(spoken(item))
        if (item.source, item.tree) != self._tree:
            self._tree, self._met = (item.source, item.tree), set()
        return "\n".join(message.content for message in self._unmet(item.messages))

    def _unmet(self, messages: tuple[Message, ...]) -> Iterator[Message]:
        for message in messages:
            if message.id is None or message.id not in self._met:
                yield message
                if message.id is not None:
                    self._met.add(message.id)
