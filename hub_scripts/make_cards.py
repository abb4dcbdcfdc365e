# SPDX-License-Identifier: Apache-2.0
"""Writes a model card for each system, from one template, one file of facts a system, its config and its scores.

    python hub_scripts/make_cards.py [--output model_cards/cards]

Numbers are computed from the default configuration or read from files that a script wrote. The paper's scores never
enter the front matter's `model-index`: only scores that `video-saliency score` measured do.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml
from card_texts import PLACEHOLDER
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results
from transformers import CONFIG_MAPPING, AutoModel

from video_saliency.checkpoints import Converter
from video_saliency.cli.convert import CONVERTERS
from video_saliency.cli.info import describe
from video_saliency.defaults import DEFAULT_MODEL
from video_saliency.loading import load_config, load_processor
from video_saliency.processing_video_saliency import VideoSaliencyProcessor
from video_saliency.scoring.leaderboard import LEADERBOARDS
from video_saliency.weights_record import Record, record_licence, source_lines, untrained_lines

ROOT = Path(__file__).parent.parent
CARDS = ROOT / "model_cards"
FACTS = ("model", "window", "maps", "input size", "parameters", "GFLOP a map", "memory", "flow")
TAGS = ["video-saliency", "saliency", "eye-tracking"]
TEXTS = ("title", "summary", "inputs", "convert", "convert_note", "recipe", "limits", "paper")
NO_WEIGHTS = "It comes without trained weights of ours: convert those that others released, or train it."
METRIC_TITLES = {"nss": "NSS", "cc": "CC", "sim": "SIM", "auc_judd": "AUC-Judd", "sauc": "sAUC", "kld": "KL"}


@dataclass(frozen=True)
class OwnModel:
    """A model that a card is about, in place of its system's default configuration.

    Attributes:
        config: of the model.
        size: of its input, `{"height": ..., "width": ...}`.
        record: of the origin of its weights, if it has one.
    """

    config: Any
    size: Mapping[str, int]
    record: Record | None = None

    def origin(self) -> str:
        """A sentence on where the weights are from."""
        if self.record is None:
            return "Where the weights in this repository are from is not recorded."
        return "Its weights are from files of others; the section on these weights says which, and under which terms."

    def sections(self) -> str:
        """What its card has beside that of the system."""
        if self.record is None:
            return ""
        lines = ["", "## These weights", "", *source_lines(self.record)]
        if untrained := untrained_lines(self.record):
            lines += ["", *untrained]
        return "\n".join([*lines, ""])


def systems() -> dict[str, dict[str, Any]]:
    """The facts of each system that this package has, by the name of their file."""
    found = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(CARDS.glob("*.yaml"))}
    return {name: facts for name, facts in found.items() if facts["model_type"] in CONFIG_MAPPING}


def card_of_model(own: OwnModel) -> str:
    """The card of a model. Raises `ValueError` if there is no file of facts about its system."""
    model_type = own.config.model_type
    for name, facts in systems().items():
        if facts["model_type"] == model_type:
            return make_card(name, facts, own)
    raise ValueError(
        f"there is no file of facts about {model_type} in {CARDS}: write one, or a README.md of the model"
    )


def make_card(name: str, facts: Mapping[str, Any], own: OwnModel | None = None) -> str:
    """The text of a card: front matter and all sections.

    Args:
        name: of the system's file.
        facts: in it.
        own: the model that the card is about. Default: the system with its default configuration, without weights.
    """
    results = measured_results(facts) if own is None else []  # they are of other weights
    licence = record_licence(own.record) if own is not None and own.record is not None else facts["licence"]
    is_listed = licence != "other"  # among the licences that the Hub knows
    data = ModelCardData(
        license=licence,
        license_name=None if is_listed else facts["licence_name"],
        license_link=None if is_listed else "NOTICE.md",
        library_name="transformers",
        base_model=facts["base_model"],
        tags=TAGS,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=facts["title"] if results else None,
        eval_results=results or None,
    )
    columns, rows = paper_scores(facts["leaderboard"], facts["rows"])
    card = ModelCard.from_template(
        data,
        template_str=(CARDS / "template.md").read_text(encoding="utf-8"),
        **{key: facts[key] for key in TEXTS},
        weights=weight_rows(facts),
        bibtex=facts["bibtex"].rstrip(),
        cost=cost_text(facts),  # beside the paper's, where there is more to say than the table does
        repository=f"ORGANISATION/{name}" if own is None else PLACEHOLDER,
        origin=NO_WEIGHTS if own is None else own.origin(),
        configuration="default configuration" if own is None else "configuration of this repository",
        facts=config_facts(facts, own),
        columns=columns,
        paper_scores=rows,
        measured=measured_text(facts, results) if own is None else "Nothing: no scores of these weights are recorded.",
    )
    return str(card).rstrip("\n") + "\n" + ("" if own is None else own.sections())


def config_facts(facts: Mapping[str, Any], own: OwnModel | None = None) -> dict[str, str]:
    """What `video-saliency info` tells of a model, or else of the default configuration of a system."""
    config_class = CONFIG_MAPPING[facts["model_type"]]
    if own is None:
        described = _described(config_class())
    else:
        described = _describe(config_class, own.config.to_json_string(), tuple(own.size.items()))
    return {row: described[row] for row in FACTS if row in described}


def cost_text(facts: Mapping[str, Any]) -> str:
    """The text about a system's cost, its numbers filled in for each of `cost_variants`; empty if it has none."""
    config_class = CONFIG_MAPPING[facts["model_type"]]
    variants = facts.get("cost_variants", {})
    numbers = {name: _costs(config_class(**entry["config"]), entry["paper"]) for name, entry in variants.items()}
    return str(facts.get("cost", "")).format(**numbers)


def _costs(config: Any, paper: Mapping[str, float]) -> dict[str, str]:
    """What `video-saliency info` counts for a whole model, with the deviation from the paper's numbers.

    Args:
        config: of the model.
        paper: its millions of `parameters`, and its `operations`, G multiplications of convolutions and linear layers.
    """
    parameters, layers, as_run = _described(config)["  all"].split()
    counted = {"parameters": float(parameters.replace(",", "")) / 1e6, "operations": float(layers)}
    deviation = {name: f"{100 * (counted[name] / value - 1):+.1f} %" for name, value in paper.items()}
    return {
        **{f"paper_{name}": str(value) for name, value in paper.items()},
        "parameters": f"{parameters} ({deviation['parameters']})",
        "layers": f"{layers} ({deviation['operations']})",
        "eager": _described(config, attention="eager")["  all"].split()[-1],
        "as_run": as_run,
    }


def _described(config: Any, attention: str | None = None) -> dict[str, str]:
    """The rows of `video-saliency info` for a configuration at the size of its converter's processor."""
    converter = converter_of(type(config))
    settings = converter.processor_settings(config) if converter else {}
    size = VideoSaliencyProcessor(**settings).size
    return _describe(type(config), config.to_json_string(), tuple(size.items()), attention)


def converter_of(config_class: type) -> Converter | None:
    """The converter of a system, if it has one."""
    return next((entry for entry in CONVERTERS.values() if entry.model_class.config_class is config_class), None)


def weight_rows(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    """Part, source and licence of all weights that a system takes; the licences are those that conversion records.

    Raises:
        ValueError: if the system's file and its converter name other sources, or one row stands for different terms.
    """
    converter = converter_of(CONFIG_MAPPING[facts["model_type"]])
    sources = converter.sources if converter else {}
    named = [name for entry in facts["weights"] for name in entry["terms_of"]]
    if sorted(named) != sorted(sources):
        raise ValueError(f"{facts['title']}: weights are told of {named}, and can be converted from {list(sources)}")
    rows = []
    for entry in facts["weights"]:
        terms = {sources[name].terms({}).text for name in entry["terms_of"]}
        if len(terms) != 1:
            raise ValueError(f"{facts['title']}: {entry['terms_of']} have different terms: give each its own row")
        rows.append({"part": entry["part"], "source": entry["source"], "licence": terms.pop()})
    return rows


@cache
def _describe(
    config_class: Any, config_json: str, size: tuple[tuple[str, int], ...], attention: str | None = None
) -> dict[str, str]:
    config = config_class.from_dict(json.loads(config_json))
    make_model = partial(AutoModel.from_config, attn_implementation=attention)
    return describe(config, dict(size), "cpu", make_model)


def paper_scores(leaderboard: str, row: str) -> tuple[list[str], list[dict[str, Any]]]:
    """Titles of the metrics, and a line for each published row whose name starts with `row`."""
    tables = json.loads((LEADERBOARDS / f"{leaderboard}.json").read_text(encoding="utf-8"))["tables"]
    chosen = [(table, name) for table in tables for name in table["rows"] if name.startswith(row)]
    metrics = [metric for metric in METRIC_TITLES if any(metric in table["columns"] for table, _ in chosen)]
    lines = []
    for table, name in chosen:
        scores = dict(zip(table["columns"], table["rows"][name], strict=True))
        which = name.removeprefix(row).lstrip(", ")
        data = f"{table['dataset']}: {table['part']}" + (f"; {which}" if which else "")
        lines.append({"data": data, "values": [scores.get(metric, "") for metric in metrics], **table})
    return [METRIC_TITLES[metric] for metric in metrics], lines


def measured_results(facts: Mapping[str, Any]) -> list[EvalResult]:
    """The scores that `video-saliency score` wrote into the folders that a system's file names under `measured`."""
    results: list[EvalResult] = []
    for run in facts.get("measured", ()):
        block = yaml.safe_load((ROOT / run["folder"] / "model_index.yaml").read_text(encoding="utf-8"))
        results += model_index_to_eval_results(block["model-index"])[1]
    return results


def measured_text(facts: Mapping[str, Any], results: Sequence[EvalResult]) -> str:
    """A table of our scores with the commands that measured them, or that there are none."""
    if not results:
        return "Nothing yet: no trained weights of this system and no gaze over video were at hand."
    lines = ["| data | metric | score | protocol |", "| --- | --- | --- | --- |"]
    for result in results:
        lines.append(
            f"| {result.dataset_name} | {result.metric_name} | {result.metric_value} | {result.metric_config} |"
        )
    commands = "\n".join(run["command"] for run in facts["measured"])
    return "\n".join([*lines, "", "Measured by:", "", "```bash", commands, "```"])


def models_table() -> str:
    """A Markdown table of all systems and the embedded default, from their configurations: the one in the README."""
    lines = ["| model | window | input | parameters | GFLOP a map | the paper's scores |", "|---|---|---|---|---|---|"]
    default = describe(load_config(DEFAULT_MODEL), load_processor(DEFAULT_MODEL).size, "cpu")
    title = "[embedded default](src/video_saliency/default_model/README.md)"
    rows = [(title, default, "none of this small GFSalNet")]
    for name, facts in systems().items():
        rows.append((f"[{facts['title']}](model_cards/cards/{name}.md)", config_facts(facts), headline(facts)))
    for title, described, scores in rows:
        cells = [title, described["window"], described["input size"].split(" (")[0]]
        gflop = float(described["GFLOP a map"].split()[0])
        cells += [described["parameters"], f"{gflop:,.0f}" if gflop >= 100 else f"{gflop:g}", scores]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def headline(facts: Mapping[str, Any]) -> str:
    """One published row of a system, the one that its file names."""
    tables = json.loads((LEADERBOARDS / f"{facts['leaderboard']}.json").read_text(encoding="utf-8"))["tables"]
    dataset, row = facts["headline"]
    table = next(table for table in tables if table["dataset"] == dataset and row in table["rows"])
    scores = dict(zip(table["columns"], table["rows"][row], strict=True))
    return f"{dataset}: " + ", ".join(f"{METRIC_TITLES[name]} {scores[name]}" for name in ("nss", "cc"))


def default_figures() -> str:
    """A Markdown table of what was measured of the embedded default, from the files beside it."""
    scores = json.loads((Path(DEFAULT_MODEL) / "scores.json").read_text(encoding="utf-8"))
    speed = json.loads((Path(DEFAULT_MODEL) / "speed.json").read_text(encoding="utf-8"))
    wall = {name: 1000 * row["wall_s"] for name, row in speed["rows"].items()}
    lines = ["| the embedded default, measured | |", "|---|---|"]
    for name, key in (("this model", "val"), ("centre bias", "val_centre_bias")):
        row = scores[key]["all"]
        values = f"NSS {row['nss']:.3f}, CC {row['cc']:.3f}, AUC-Judd {row['auc_judd']:.3f}"
        lines.append(f"| {row['images']} validation stills with human fixations, {name} | {values} |")
    motion = scores["motion"]
    shares = [100 * motion[f"mover_wins_{camera}_camera"] for camera in ("still", "panning")]
    lines.append(
        f"| a moving cut-out beats the same one at rest | {shares[0]:.1f} % of clips, {shares[1]:.1f} % panning |"
    )
    lines.append(f"| a frame of the example clip: flow and network | {wall['flow and network']:.1f} ms |")
    lines.append(f"| from the file to maps at source size | {wall['file to maps at source size']:.1f} ms a frame |")
    lines.append(f"| from the file to an overlay video | {speed['overlay_maps_per_second']:.0f} frames a second |")
    lines.append(f"| on | {speed['machine']}, torch {speed['torch']}, by `make card` |")
    return "\n".join(lines)


def replace_between(text: str, mark: str, content: str) -> str:
    """`text` with what stands between the comments `mark` replaced. Raises `ValueError` if they are not there."""
    start, end = f"<!-- {mark}: made by make cards -->\n", f"<!-- end of {mark} -->"
    if start not in text or end not in text:
        raise ValueError(f"the comments {start.strip()} and {end} are missing")
    before, rest = text.split(start)
    return before + start + content + "\n" + end + rest.split(end)[1]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=CARDS / "cards", help="folder for the cards")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", help="file whose tables are renewed")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    for name, facts in systems().items():
        (options.output / f"{name}.md").write_text(make_card(name, facts), encoding="utf-8")
        sys.stdout.write(f"{options.output / f'{name}.md'}\n")
    readme = options.readme.read_text(encoding="utf-8")
    for mark, content in (("models", models_table()), ("figures", default_figures())):
        readme = replace_between(readme, mark, content)
    options.readme.write_text(readme, encoding="utf-8")
    sys.stdout.write(f"{options.readme}: tables of models and figures\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
