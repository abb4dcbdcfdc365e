# SPDX-License-Identifier: Apache-2.0
"""Small changes of a card's text: the repository's name, and the note of a repository that carries its code."""

from __future__ import annotations

import re

# what cards say until the repository's name is known; always in quotes, so that nothing else is replaced
PLACEHOLDER = "THIS_REPOSITORY"
NAMELESS = re.compile(rf'"(?:{PLACEHOLDER}|THIS_FOLDER|ORGANISATION/[\w.-]+)"')
NOTE_START, NOTE_END = "<!-- loading without the package -->", "<!-- end of loading without the package -->"
LOADING_NOTE = f"""
{NOTE_START}
## Loading without the package

This repository carries its code. It loads without `video-saliency` (`pip install torch transformers av pillow`), if
you trust that code: read it first.

```python
from transformers import pipeline

pipe = pipeline("video-saliency", model="{PLACEHOLDER}", trust_remote_code=True)
```

Where `video-saliency` is installed and imported, its classes are used instead, and nothing has to be trusted.
{NOTE_END}
"""


def with_repository(card: str, repository: str) -> str:
    """The card with the name of its repository, `ORG/NAME`, wherever it has none yet."""
    return NAMELESS.sub(f'"{repository}"', card)


def with_loading_note(card: str) -> str:
    """The card of a repository that carries its code: a note how it loads stands last, once."""
    return without_loading_note(card) + LOADING_NOTE


def without_loading_note(card: str) -> str:
    """The card of a plain repository."""
    note = rf"\s*{re.escape(NOTE_START)}.*?{re.escape(NOTE_END)}"
    return re.sub(note, "", card, flags=re.DOTALL).rstrip("\n") + "\n"
