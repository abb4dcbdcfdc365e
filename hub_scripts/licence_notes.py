# SPDX-License-Identifier: Apache-2.0
"""What is known of the licences of a model repository: of its code, and of each source of its weights."""

from __future__ import annotations

import json
from pathlib import Path

from make_cards import systems

RECORD = "conversion.json"
HEADING = "# Licences\n\n"


def licence_notes(folder: Path, model_type: str) -> str:
    """The text of `NOTICE.md`.

    Args:
        folder: of the model; its `conversion.json`, if there is one, tells which files its weights are from.
        model_type: of the model, whose file of facts names the usual sources.
    """
    lines = ["Code: Apache-2.0, see `LICENSE`; it is that of the package `video-saliency`.", ""]
    if (folder / RECORD).is_file():
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        lines += ["Weights, as `video-saliency convert` recorded them:", ""]
        for name, source in record["sources"].items():
            licence = source["licence"] or "see its terms"
            lines.append(f"- {name}: {source['title']}, `{source['file']}` (SHA-256 `{source['sha256']}`): {licence}.")
            lines.append(f"  {source['terms']}")
    elif (folder / "README.md").is_file():
        lines.append("Weights: see the section on licences of `README.md`.")
    else:
        lines += ["Weights keep the licence of their source; the usual ones are:", ""]
        for facts in systems().values():
            if facts["model_type"] == model_type:
                lines += [f"- {entry['part']}: {entry['source']}: {entry['licence']}." for entry in facts["weights"]]
    return HEADING + "\n".join(lines) + "\n"
