"""`make families`: every family's way, as the table of docs/models.md. `python -m tests.families Llama Qwen3` prints those two."""

import sys
import tempfile
import time
import warnings
from pathlib import Path

from tests.families.journey import travelled
from tests.families.models import FAMILIES
from tests.families.page import DOCUMENT, table, with_section


def main() -> int:
    warnings.simplefilter("ignore")
    chosen = [family for family in FAMILIES if not sys.argv[1:] or family.startswith(tuple(sys.argv[1:]))]
    found = []
    with tempfile.TemporaryDirectory(prefix="finetune-families-") as place:
        for number, family in enumerate(chosen):
            began = time.monotonic()
            found.append((family, travelled(family, Path(place) / str(number))))
            print(f"{family}: {found[-1][1]}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    written = table(found)
    print(written)
    if len(chosen) == len(FAMILIES):
        DOCUMENT.write_text(with_section(DOCUMENT.read_text(encoding="utf-8"), written), encoding="utf-8")
    return 0 if found and all(one.is_right for _, one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
