"""Words of a text as numbers: what near-duplicates and evaluation sets are compared by.

In: text. Out: its words without case and punctuation, a 32-bit hash of each, and a 64-bit hash of each run of n words. The hashes are the
same in every process and on every machine. Nothing here knows what is compared with what.
"""

import re
import unicodedata
from typing import TYPE_CHECKING, Final
from zlib import crc32

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Hashes = NDArray[np.uint64]

# Chinese and Japanese put no space between words: there each character is one.
_ALONE: Final = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD: Final = re.compile(rf"[{_ALONE}]|[^\W_{_ALONE}]+")
_ASCII_WORD: Final = re.compile(rb"[a-z0-9]+")
_FACTOR: Final = 0x9E3779B97F4A7C15  # 2**64 by the golden ratio, odd: its powers are spread over all 64 bits


def words(text: str) -> list[str]:
    """The words of a text, normalised.

    >>> words("Don't PANIC: 42_000 \\u732b\\u3068")
    ['don', 't', 'panic', '42', '000', '\\u732b', '\\u3068']
    """
    return [word.decode() for word in _encoded_words(text)]


def word_hashes(text: str) -> "Hashes":
    """A 32-bit hash of each of `words(text)`, as 64-bit numbers: shape [words]."""
    import numpy as np

    found = _encoded_words(text)
    return np.fromiter(map(crc32, found), np.uint64, len(found))


def run_hashes(hashes: "Hashes", length: int) -> "Hashes":
    """A hash of each run of `length` words, in their order: shape [words - length + 1], or [0] where there are fewer words.

    >>> import numpy as np
    >>> there, here = run_hashes(word_hashes("a b c d"), 2), run_hashes(word_hashes("x B, c"), 2)
    >>> [int(np.flatnonzero(there == run)[0]) for run in here if run in there]
    [1]
    """
    import numpy as np

    num_runs = len(hashes) - length + 1
    if num_runs < 1:
        return np.zeros(0, np.uint64)
    factor = np.uint64(_FACTOR)
    found = hashes[:num_runs].copy()
    for offset in range(1, length):
        found *= factor  # modulo 2**64
        found += hashes[offset : offset + num_runs]
    # The high bits depend on all words; the low ones do after this.
    found ^= found >> np.uint64(32)
    return found


def _encoded_words(text: str) -> list[bytes]:
    """Text of ASCII alone, which most is, takes a short way to the same."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower().encode())
    return [word.encode() for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold())]
