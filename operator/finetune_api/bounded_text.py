"""Text that fits where it is written: status fields, events and termination messages all have a largest size."""

_ELLIPSIS = "..."


def shortened(text: str, longest: int, *, in_bytes: bool = False) -> str:
    """At most `longest` characters, or bytes of UTF-8, cut with an ellipsis; what UTF-8 can't hold becomes `?`.

    >>> shortened("the disk is full", 11), shortened("full", 11), shortened("ééééé", 7, in_bytes=True)
    ('the disk...', 'full', 'éé...')
    """
    encoded = text.encode("utf-8", "replace")
    text = encoded.decode("utf-8")
    if len(encoded if in_bytes else text) <= longest:
        return text
    room = max(longest - len(_ELLIPSIS), 0)
    return (encoded[:room].decode("utf-8", "ignore") if in_bytes else text[:room]).rstrip() + _ELLIPSIS[:longest]
