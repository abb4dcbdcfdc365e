# SPDX-License-Identifier: Apache-2.0
"""What is known of the licences of a model repository: of its code, and of each source of its weights."""

from __future__ import annotations

import re

from huggingface_hub import ModelCard
from make_cards import systems, weight_rows

from video_saliency.weights_record import Record, source_lines

HEADING = re.compile(r"^#+ +(.*\b(?:licen[cs]es?|terms)\b.*?) *$", flags=re.IGNORECASE | re.MULTILINE)


def licence_notes(model_type: str, record: Record | None, card: str | None) -> str:
    """The text of `NOTICE.md`.

    Args:
        model_type: of the model, whose file of facts names the usual sources of weights.
        record: of the origin of these weights, if there is one.
        card: the model's own; `None` for one that only tells of its system.
    """
    lines = ["Code: Apache-2.0, see `LICENSE`; it is that of the package `video-saliency`.", ""]
    heading = HEADING.search(card or "")
    if record is not None:
        lines += ["Weights, as `video-saliency convert` recorded them:", "", *source_lines(record)]
    elif heading is not None:
        lines.append(f'Weights: see the section "{heading[1]}" of `README.md`.')
    else:
        licence = ModelCard(card, ignore_metadata_errors=True).data.license if card else None
        if licence is not None:
            lines += [f"Weights: the head of `README.md` names the licence `{licence}`.", ""]
        lines += ["Weights keep the licence of their source; the usual ones are:", ""]
        for facts in systems().values():
            if facts["model_type"] == model_type:
                lines += [f"- {row['part']}: {row['source']}: {row['licence']}" for row in weight_rows(facts)]
    return "# Licences\n\n" + "\n".join(lines) + "\n"
