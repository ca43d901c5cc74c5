"""For reading: bytes, seconds and counts as short text, and texts of others, the same in the terminal, the report and the model card."""

# Control characters other than tab and newline have pictures in Unicode; browsers would drop them or stop. Half a surrogate pair can't be
# written at all, and what turns the direction of a line would let it read as another one.
_PICTURES = {code: 0x2400 + code for code in range(0x20) if code not in (0x09, 0x0A)} | {0x7F: 0x2421}
_REPLACED = dict.fromkeys((*range(0x80, 0xA0), *range(0xD800, 0xE000), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD)
_VISIBLE = _PICTURES | _REPLACED


def visible(text: str) -> str:
    """A text in which nothing is hidden: a picture or U+FFFD in the place of each character that would not show.

    >>> print(visible("a\\x00b\\x1b[31m"), visible("\\u202e") == "\\ufffd")
    a␀b␛[31m True
    """
    return text.translate(_VISIBLE)


def size(num_bytes: float) -> str:
    """Bytes with a binary unit.

    >>> size(3 * 2**20), size(512)
    ('3.0 MiB', '512 B')
    """
    for unit, scale in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.1f} {unit}"
    return f"{num_bytes:.0f} B"


def duration(seconds: float) -> str:
    """Seconds in the units that a person would use.

    >>> duration(0.26), duration(75), duration(3 * 3600 + 60)
    ('0.3 s', '1 min 15 s', '3 h 01 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left:02d} min" if hours else f"{minutes} min {rest:02d} s"


def count(number: float) -> str:
    """A count with at most four digits: exact below ten thousand.

    >>> count(9999), count(12_345), count(7_440_000), count(15_517_000_000)
    ('9,999', '12.3 k', '7.44 M', '15.5 B')
    """
    for unit, scale in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= scale * (10 if unit == "k" else 1):
            return f"{number / scale:.3g} {unit}"
    return f"{number:,.0f}"
