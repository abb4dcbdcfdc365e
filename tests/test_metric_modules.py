# SPDX-License-Identifier: Apache-2.0
"""The metric modules load from their folders with `evaluate`, without network, and score as the functions do."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from video_saliency.metrics import auc_borji, auc_judd, cc, ig, kld, nss, sauc, score_frame, sim
from video_saliency.metrics.frame_scorer import FrameTruth

evaluate = pytest.importorskip("evaluate", reason="the metric modules need it: pip install 'video-saliency[metrics]'")

FOLDERS = sorted(path.parent for path in (Path(__file__).parents[1] / "hub_scripts" / "metrics").glob("*/README.md"))
MODULE = Path(__file__).parents[1] / "hub_scripts" / "metrics" / "video_saliency_metrics"

RNG = np.random.default_rng(0)
SIZES = ((9, 12), (7, 5), (9, 12))
MAPS, DENSITIES, BASELINES = ([RNG.random(size) for size in SIZES] for _ in range(3))
POINTS, OTHERS = ([RNG.integers(0, size, (count, 2)) for size in SIZES] for count in (4, 6))

# name -> function, reference, further inputs
METRICS = {
    "auc_judd": (auc_judd, POINTS, {}),
    "auc_borji": (auc_borji, POINTS, {}),
    "nss": (nss, POINTS, {}),
    "sauc": (sauc, POINTS, {"other": OTHERS}),
    "ig": (ig, POINTS, {"baseline": BASELINES}),
    "cc": (cc, DENSITIES, {}),
    "sim": (sim, DENSITIES, {}),
    "kld": (kld, DENSITIES, {}),
}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        # the copies of the modules and the cached inputs stay out of the user's home
        patch.setattr("evaluate.loading.init_dynamic_modules.__defaults__", ("evaluate_modules", folder / "modules"))
        patch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)
        yield lambda *name: evaluate.load(str(MODULE), *name, cache_dir=str(folder / "cache"))


@pytest.mark.parametrize("name", METRICS)
def test_one_metric_by_its_name(load, name: str) -> None:
    function, references, more = METRICS[name]
    module = load(name)
    result = module.compute(predictions=MAPS, references=references, return_frames=True, **more)
    expected = [function(*parts) for parts in zip(MAPS, references, *more.values(), strict=True)]
    assert result[f"{name}_frames"] == pytest.approx(expected, rel=1e-12)
    assert result[name] == pytest.approx(np.mean(expected), rel=1e-12)
    assert result[f"{name}_undefined"] == 0


def references(points: list) -> list[dict]:
    return [{"fixations": xy, "density": density} for xy, density in zip(points, DENSITIES, strict=True)]


def test_five_metrics_without_a_name(load) -> None:
    module = load()
    points = [POINTS[0], [], POINTS[2]]
    result = module.compute(predictions=MAPS, references=references(points))
    frames = [score_frame(MAPS[i], FrameTruth(density=DENSITIES[i], fixations=points[i])) for i in range(3)]
    for name in ("auc_judd", "nss", "cc", "sim", "kld"):
        scores = [frame[name] for frame in frames]
        assert result[name] == pytest.approx(np.nanmean(scores))
        assert result[f"{name}_undefined"] == np.isnan(scores).sum() == (name in ("auc_judd", "nss"))


def test_frames_added_one_by_one_options_and_presets(load) -> None:
    module = load("nss")
    for saliency_map, xy in zip(MAPS, POINTS, strict=True):
        module.add(predictions=saliency_map, references=xy)
    expected = np.mean([nss(saliency_map, xy, ddof=0) for saliency_map, xy in zip(MAPS, POINTS, strict=True)])
    assert module.compute(ddof=0)["nss"] == pytest.approx(expected)
    challenge = load().compute(predictions=MAPS, references=references(POINTS), preset="avimos", undefined="error")
    frames = [score_frame(MAPS[i], FrameTruth(density=DENSITIES[i], fixations=POINTS[i]), "avimos") for i in range(3)]
    assert challenge["auc_judd"] == pytest.approx(np.mean([frame["auc_judd"] for frame in frames]))
    assert "kld" not in challenge


def test_metrics_combine(load) -> None:
    both = evaluate.combine([load("nss"), load("auc_judd")])
    result = both.compute(predictions=MAPS, references=POINTS)
    assert {"nss", "auc_judd"} <= set(result)


def test_wrong_use_is_told(load) -> None:
    with pytest.raises(ValueError, match="'f1' is not known: name one of auc_judd"):
        load("f1")
    with pytest.raises(ValueError, match="belong to one metric"):
        load().compute(predictions=MAPS, references=references(POINTS), ddof=0)
    with pytest.raises(ValueError, match="without a metric's name"):
        load("cc").compute(predictions=MAPS, references=DENSITIES, preset="mit")
    with pytest.raises(ValueError, match="has no nss"):
        load("nss").compute(predictions=MAPS, references=[[], [], []], undefined="error")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_folders_are_spaces(folder: Path) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    front_matter = re.match(r"---\n(.*?)\n---\n", text, flags=re.DOTALL).group(1)
    for key in ("title", "emoji", "colorFrom", "colorTo", "sdk", "app_file", "license", "tags", "description"):
        assert re.search(rf"^{key}:", front_matter, flags=re.MULTILINE), key
    assert "- metric" in front_matter and "- evaluate" in front_matter
    app_file = re.search(r"^app_file: (.+)$", front_matter, flags=re.MULTILINE).group(1)
    assert (folder / app_file).is_file()
    assert (folder / f"{folder.name}.py").is_file()
    assert "video-saliency" in (folder / "requirements.txt").read_text(encoding="utf-8")
