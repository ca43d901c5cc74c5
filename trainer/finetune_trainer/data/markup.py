"""HTML of a chat page, as raw ShareGPT dumps have it, back to the Markdown that it was rendered from.

In: turns. Out: the same, with a message turned into text only if all of it is rendered markup. A message that merely holds
tags is left alone: `#include <stdio.h>`, `a < b` and an answer that shows HTML are content.
"""

import re
from typing import TYPE_CHECKING

from finetune_trainer.data.formats import Turn

if TYPE_CHECKING:
    from bs4 import Tag
    from bs4.element import PageElement

# The element that the page puts around each rendered message.
PAGE_ELEMENT = re.compile(r'<div class="[^"]*\b(?:markdown|prose|whitespace-pre-wrap|flex-grow)\b[^"]*"', re.ASCII)
# What Markdown is rendered to: a message that begins and ends with these, and has nothing else between, was rendered too.
BLOCKS = frozenset(("p", "ol", "ul", "pre", "blockquote", "table", "h1", "h2", "h3", "h4", "h5", "h6", "hr"))
INLINE = frozenset(("strong", "b", "em", "i", "code", "a", "br", "li", "span", "thead", "tbody", "tr", "th", "td", "del", "sup", "sub"))
LEFT_OUT = frozenset(("button", "svg", "style", "script"))
WRAPPED = {"strong": "**", "b": "**", "em": "*", "i": "*", "code": "`", "del": "~~"}
USERS = frozenset(("human", "user", "prompter"))
FENCE = "```"
FIXED_BREAK = "\0"  # stands for a line break that must stay, while too many blank lines are taken out


def without_markup(turns: list[Turn]) -> list[Turn]:
    """`turns` with rendered messages as text; the same object if there are none."""
    if not any(isinstance(content, str) and content[:64].lstrip().startswith("<") for _, content, _ in turns):
        return turns
    cleaned = [(role, _text(role, content), identity) for role, content, identity in turns]
    return turns if cleaned == turns else cleaned


def _text(role: object, content: object) -> object:
    """The text of a rendered message; anything else as it is."""
    if not isinstance(content, str) or not content[:64].lstrip().startswith("<"):
        return content
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(content, "html.parser")
    # Of what a user typed only the page's own element is markup: people ask about their HTML.
    if not (PAGE_ELEMENT.match(content.lstrip()) or (role not in USERS and _is_rendered_markdown(soup))):
        return content
    return re.sub(r"\n{3,}", "\n\n", _markdown(soup)).strip().replace(FIXED_BREAK, "\n")


def _is_rendered_markdown(soup: "Tag") -> bool:
    """Whether there are only blocks of Markdown at the top, only its elements inside, and no attribute that it does not write."""
    from bs4 import Tag

    top = [child for child in soup.children if isinstance(child, Tag) or str(child).strip()]
    if not top or not all(isinstance(child, Tag) and child.name in BLOCKS for child in top):
        return False
    # The page puts a language bar and a button of its own into `pre`.
    elements = [element for element in soup.find_all(True) if element.find_parent("pre") is None]
    plain = all(set(element.attrs) <= {"href", "start", "target", "rel"} for element in elements)
    return plain and all(element.name in BLOCKS | INLINE for element in elements)


def _markdown(element: "Tag") -> str:
    """Markdown of what is inside `element`; blocks are set apart by blank lines, which may be too many."""
    return "".join(_piece(child) for child in element.children)


def _piece(node: "PageElement") -> str:
    from bs4 import Tag

    if not isinstance(node, Tag):
        return _running_text(node)
    if node.name in LEFT_OUT:
        return ""
    if node.name == "pre":
        return _fenced(node)
    if node.name in ("ol", "ul"):
        return _list(node)
    inside = _markdown(node)
    if node.name in WRAPPED:
        return f"{WRAPPED[node.name]}{inside}{WRAPPED[node.name]}" if inside.strip() else inside
    if node.name == "a":
        return f"[{inside}]({node['href']})" if node.get("href") else inside
    return _block(node.name, inside)


def _block(name: str, inside: str) -> str:
    if name == "br":
        return "\n"
    if name == "hr":
        return "\n\n---\n\n"
    if name in ("h1", "h2", "h3", "h4", "h5", "h6"):
        return f"\n\n{'#' * int(name[1])} {inside.strip()}\n\n"
    if name == "blockquote":
        return "\n\n" + "\n".join(f"> {line}" for line in inside.strip().splitlines()) + "\n\n"
    if name in ("td", "th"):
        return f"{inside.strip()} | "
    if name == "tr":
        return f"| {inside.strip()}\n"
    return f"\n\n{inside.strip()}\n\n" if name in ("p", "div", "table") else inside


def _running_text(node: "PageElement") -> str:
    """The text between tags: comments are none, line breaks of the source are spaces, and between blocks there is nothing."""
    from bs4 import Comment

    if isinstance(node, Comment):
        return ""
    text = str(node)
    if text.isspace() and "\n" in text:
        return ""
    # What the user typed is shown as it is; elsewhere a line break is white space.
    typed = node.find_parent(class_="whitespace-pre-wrap") is not None
    return text.replace("\n", FIXED_BREAK) if typed else re.sub(r"\s*\n\s*", " ", text)


def _fenced(pre: "Tag") -> str:
    """A block of code between fences, with its language."""
    code = pre.find("code") or pre
    classes = str(code.get_attribute_list("class"))
    language = "".join(re.findall(r"\blanguage-([\w+#-]+)", classes)[:1])
    fenced = f"{FENCE}{language}\n{code.get_text().strip(chr(10))}\n{FENCE}"
    return "\n\n" + fenced.replace("\n", FIXED_BREAK) + "\n\n"


def _list(element: "Tag") -> str:
    """Items on lines of their own; what follows in an item is set in under its text."""
    lines = []
    for number, item in enumerate(element.find_all("li", recursive=False), start=1):
        mark = f"{number}. " if element.name == "ol" else "- "
        text = re.sub(r"\n{2,}", "\n", _markdown(item).strip())
        lines.append(mark + re.sub(f"([\n{FIXED_BREAK}])", r"\1" + " " * len(mark), text))
    return "\n\n" + "\n".join(lines) + "\n\n"
