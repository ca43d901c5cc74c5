"""Text that fits where it is written: status fields, events and termination messages all have a largest size."""

_ELLIPSIS = "..."


def shortened(text: str, longest: int) -> str:
    """At most `longest` characters, cut with an ellipsis; what UTF-8 can't hold becomes `?`.

    >>> shortened("the disk is full", 11), shortened("full", 11)
    ('the disk...', 'full')
    """
    text = text.encode("utf-8", "replace").decode("utf-8")
    if len(text) <= longest:
        return text
    return text[: max(longest - len(_ELLIPSIS), 0)].rstrip() + _ELLIPSIS[:longest]
