"""Near-duplicates: rows whose runs of words are nearly the same set, by MinHash (datasketch) and a table of its bands.

In: the word hashes of rows, in their order. Out: for each, the number of an earlier row that was kept and is as similar, or None, and then
this one is kept. So the first of a group stays; the same rows give the same answer in every process.

datasketch 2.0 signs, and says how many bands a threshold needs. Its own index keeps a set of keys for each band of each row; here a band's
table holds only the number of the first row that has these values, and candidates are compared by their signatures.
"""

from typing import TYPE_CHECKING, Any, Final

from finetune_assistant.curation.words import run_hashes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from finetune_assistant.curation.words import Hashes

    Signature = NDArray[np.uint32]

NEAR_DUPLICATE: Final = "near-duplicate of an earlier row"
DEFAULT_THRESHOLD: Final = 0.8
LEAST_THRESHOLD, MOST_THRESHOLD = 0.5, 0.95  # below, a row would need more than 32 bands; above, an exact comparison says the same
_PERMUTATIONS: Final = 128
_SHINGLE_WORDS: Final = 5
# A row that is missed stays for ever, a wrong candidate costs a comparison.
_WEIGHTS: Final = (0.1, 0.9)
_BLOCK_ROWS: Final = 4096


class NearDuplicates:
    """The rows that were kept so far. Takes about 1.8 kB a row at the default threshold: 14 entries and a signature."""

    def __init__(self, threshold: float = DEFAULT_THRESHOLD, *, seed: int = 1) -> None:
        """`threshold`: the least Jaccard similarity of two sets of runs of five words that counts as a near-duplicate."""
        import numpy as np
        from datasketch import MinHash, MinHashLSH

        bands = MinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS, weights=_WEIGHTS)
        self._shape = (bands.b, bands.r)
        # `int`: the values are hashes already.
        self._minhash: Any = MinHash(num_perm=_PERMUTATIONS, seed=seed, hashfunc=int)
        self._least_equal = threshold * _PERMUTATIONS
        self._factors = np.random.default_rng(seed).integers(1, 2**63, bands.r, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self._tables: list[dict[int, int]] = [{} for _ in range(bands.b)]
        self._signatures: list[Signature] = []  # blocks of _BLOCK_ROWS rows
        self._kept = 0

    def earlier(self, hashes: "Hashes") -> int | None:
        """The number, from 0, of a kept row that is nearly the same; None keeps this row. A row without words is kept, and not compared."""
        if not len(hashes):
            return None
        signature = self._signature(hashes)
        keys = self._band_keys(signature)
        compared: set[int] = set()
        for table, key in zip(self._tables, keys, strict=True):
            candidate = table.get(key)
            if candidate is not None and candidate not in compared:
                if self._are_similar(candidate, signature):
                    return candidate
                compared.add(candidate)
        self._keep(signature, keys)
        return None

    def _signature(self, hashes: "Hashes") -> "Signature":
        """MinHash of the row's shingles; a row of fewer words than one has is a single shingle."""
        import numpy as np

        runs = run_hashes(hashes, min(_SHINGLE_WORDS, len(hashes))) & np.uint64(0xFFFFFFFF)
        self._minhash.clear()
        self._minhash.update_batch(runs.tolist())
        signature: Signature = self._minhash.hashvalues
        return signature

    def _band_keys(self, signature: "Signature") -> list[int]:
        """A number for each band that two rows share when they share its values; modulo 2**64."""
        bands, rows = self._shape
        found: list[int] = (signature[: bands * rows].reshape(bands, rows) * self._factors).sum(axis=1).tolist()
        return found

    def _are_similar(self, candidate: int, signature: "Signature") -> bool:
        block, row = divmod(candidate, _BLOCK_ROWS)
        return int((self._signatures[block][row] == signature).sum()) >= self._least_equal

    def _keep(self, signature: "Signature", keys: list[int]) -> None:
        import numpy as np

        block, row = divmod(self._kept, _BLOCK_ROWS)
        if row == 0:
            self._signatures.append(np.empty((_BLOCK_ROWS, _PERMUTATIONS), np.uint32))
        self._signatures[block][row] = signature
        for table, key in zip(self._tables, keys, strict=True):
            table.setdefault(key, self._kept)
        self._kept += 1
