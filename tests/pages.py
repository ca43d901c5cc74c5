"""Tables of documents that a target of the Makefile writes anew: each stands between two marks that name the target."""


def with_table(page: str, target: str, written: str) -> str:
    r"""The page with another table of that target. Raises ValueError where it has no place for one.

    >>> with_table("a\n<!-- written by `make x` -->\nold\n<!-- end of `make x` -->\nb", "x", "new")
    'a\n<!-- written by `make x` -->\n\nnew\n\n<!-- end of `make x` -->\nb'
    """
    first, last = f"<!-- written by `make {target}` -->", f"<!-- end of `make {target}` -->"
    before, begin, rest = page.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"the page has no {first} with {last} after it")
    return f"{before}{begin}\n\n{written}\n\n{end}{after}"
