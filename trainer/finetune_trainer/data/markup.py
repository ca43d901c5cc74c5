"""HTML of a chat page, as raw ShareGPT exports have it, back to the Markdown that it was rendered from.

In: messages. Out: the same, with text in place of markup only where that is what a job asked for: with `auto` in conversations that are a
page as a whole, that is to say whose every answer stands in the page's own element; with `markdown` also answers that are
HTML from end to end. What an answer is about is never touched: `#include <stdio.h>`, `a < b` and an answer that shows HTML stay.
"""

import html
import re
from functools import cache
from typing import Any, Final, Literal

from finetune_trainer.data.dialogues import Message

# The elements that the page puts around an answer and around what a user typed.
_ANSWER: Final = re.compile(r'\s*<div class="(?=[^"]*\bmarkdown\b)(?=[^"]*\bprose\b)[^"]*"')
_QUESTION: Final = re.compile(r'\s*<div class="[^"]*\b(?:whitespace-pre-wrap|flex-grow)\b[^"]*"')
_END: Final = re.compile(r"</\w+>\s*$")
_TAG: Final = re.compile(r"\s*<(?:p|div|ol|ul|pre|blockquote|table|h[1-6]|hr)\b")
_LANGUAGE: Final = re.compile(r"\blanguage-([\w+#-]+)")


def without_markup(messages: list[Message], setting: Literal["auto", "markdown"]) -> list[Message]:
    """`messages` with rendered ones as Markdown; the same object if there are none."""
    answers = [message.content for message in messages if message.role == "assistant"]
    if not any(answer[:64].lstrip().startswith("<") for answer in answers):
        return messages
    is_page = bool(answers) and all(_ANSWER.match(answer) and _END.search(answer) for answer in answers)
    if not is_page and setting == "auto":
        return messages
    cleaned = [_cleaned(message, is_page) for message in messages]
    return messages if cleaned == messages else cleaned


def _cleaned(message: Message, is_page: bool) -> Message:
    content = message.content
    if message.role == "assistant":
        whole = _ANSWER.match(content) or (_TAG.match(content) and _END.search(content))
        return message._replace(content=_markdown(content)) if whole else message
    if message.role == "user" and is_page and _QUESTION.match(content):
        return message._replace(content=_typed(content))
    return message


def _typed(page: str) -> str:
    """What a user typed: the page shows it as it is, line breaks too, and writes no tag of the user's own."""
    return html.unescape(re.sub(r"<[^>]*>", "", page))


def _markdown(page: str) -> str:
    """What the page's renderer was given, as near as the library comes; nothing is escaped, as answers are not."""
    return str(_converter().convert(page)).strip()


@cache
def _converter() -> Any:
    """Without the page's own buttons, and blocks of code without the bar above them."""
    from markdownify import ATX, MarkdownConverter

    class Converter(MarkdownConverter):
        def convert_button(self, el: Any, text: str, parent_tags: Any) -> str:
            return ""

        convert_svg = convert_button

        def convert_pre(self, el: Any, text: str, parent_tags: Any) -> str:
            code = el.find("code") or el
            language = _LANGUAGE.search(" ".join(code.get_attribute_list("class", [])))
            return f"\n\n```{language.group(1) if language else ''}\n{code.get_text().strip(chr(10))}\n```\n\n"

    return Converter(heading_style=ATX, bullets="-", escape_asterisks=False, escape_underscores=False, escape_misc=False)
