"""``python -m vecpipe.reference [docs/reference.md ...]`` writes the pages named, all of them by default."""

from __future__ import annotations

import sys
from pathlib import Path

from vecpipe.reference.pages import PAGES

if __name__ == "__main__":
    for argument in sys.argv[1:] or [f"docs/{name}.md" for name in PAGES]:
        path = Path(argument)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PAGES[path.stem]())
