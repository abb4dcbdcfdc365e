# SPDX-License-Identifier: Apache-2.0
"""The streaming scorer: every kind of prediction, resuming, workers, protocols, and the table of a card."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dataset_factory import SIZE, density, make_dhf1k, mask, picture, write_pictures, write_truth_video
from still_data_factory import make_still_folder
from tiny_models import echo_model, tiny_gfsalnet

from video_saliency.baselines import BaselineFrame, CentreBias, CentreGaussian, HumanHalves
from video_saliency.data import StillFixations, fixation_density, open_dataset
from video_saliency.data.dataset_info import DatasetInfo, SplitInfo
from video_saliency.map_io import MapPngWriter, MapShardWriter
from video_saliency.metrics import FrameTruth, OtherFixations, auc_judd, cc, get_protocol, ig, nss, score_frame
from video_saliency.predictor import VideoSaliencyPredictor
from video_saliency.scoring import (
    BaselineMaps,
    DatasetScorer,
    FolderMaps,
    MapSource,
    ModelMaps,
    StillAtSize,
    published_tables,
    score_dataset,
    score_stills,
    tables_for,
    training_split,
)
from video_saliency.training.default_scores import predict_maps

CLIPS = {601: 5, 602: 3}


class Shifted(MapSource):
    """The true density of the frame after; counts the items that it was asked for."""

    def __init__(self, fail_at: str = "") -> None:
        self.settings = {"predictions": "shifted"}
        self.asked: list[str] = []
        self.fail_at = fail_at

    def maps(self, item, wanted):
        self.asked.append(item.id)
        for index in wanted:
            if item.id == self.fail_at and index == 1:
                raise OSError("the disk is gone")
            yield index, density(index + 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("dhf1k")
    make_dhf1k(root, CLIPS, as_video=False)
    return open_dataset("dhf1k", root, split="val")


def small_map(index: int) -> np.ndarray:
    return density(index + 2, (18, 32)).astype(np.float32) / 255


def write_predictions(root: Path, kind: str) -> None:
    for number, num_frames in CLIPS.items():
        home = root / f"{number:04d}"
        if kind == "video":
            maps = [density(index + 2, (18, 32), 876, np.uint16) for index in range(num_frames)]
            write_truth_video(home.with_suffix(".mp4"), maps)
        elif kind == "own names":
            names = [f"{index + 1:04d}.png" for index in range(num_frames)]
            write_pictures(home, names, (density(index + 2, (18, 32)) for index in range(num_frames)))
        else:
            writer = MapShardWriter(home / "maps") if kind == "npz" else MapPngWriter(home / "png")
            for index in range(num_frames):
                writer.write(index, index / 30, small_map(index))
            if isinstance(writer, MapShardWriter):
                writer.flush()


@pytest.mark.parametrize("kind", ["npz", "png", "own names", "video"])
def test_predictions_of_every_kind(tmp_path, data, kind: str) -> None:
    write_predictions(tmp_path / "maps", kind)
    names = ["nss", "cc", "auc_judd"]
    report = score_dataset(
        FolderMaps(tmp_path / "maps"), DatasetScorer(data.items, "mit", metrics=names), tmp_path / "out"
    )
    assert [(name, count) for name, _, count in report.videos] == [("0601", 5), ("0602", 3)]
    # what lies in the files: floats, 8 bits or 10
    stored = {"npz": small_map, "video": lambda index: density(index + 2, (18, 32), 876, np.uint16)}
    map_of = stored.get(kind, lambda index: density(index + 2, (18, 32)))
    expected = [
        score_frame(map_of(index), FrameTruth(density(index), mask(index)), "mit", metrics=names)
        for num_frames in CLIPS.values()
        for index in range(num_frames)
    ]
    for name in names:
        scores = [row[name] for row in expected]
        assert report.overall("frames")[name] == pytest.approx(np.mean(scores), abs=1e-9)
        of_videos = [np.mean(scores[:5]), np.mean(scores[5:])]
        assert report.overall("videos")[name] == pytest.approx(np.mean(of_videos), abs=1e-9)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_tables(tmp_path, data) -> None:
    scorer = DatasetScorer(data.items, "mit", metrics=["cc", "nss"])
    card = {"model_name": "m", "dataset_type": "dhf1k", "dataset_name": "DHF1K", "dataset_split": "val"}
    report = score_dataset(Shifted(), scorer, tmp_path, card=card, frames_format="csv")
    frames = rows_of(tmp_path / "frames.csv")
    assert [(row["video"], row["frame"]) for row in frames][:6] == [
        *(("0601", str(i)) for i in range(5)),
        ("0602", "0"),
    ]
    assert float(frames[2]["cc"]) == cc(density(3), density(2))
    videos = {row["video"]: row for row in rows_of(tmp_path / "videos.csv")}
    assert float(videos["0602"]["nss"]) == pytest.approx(np.mean([nss(density(i + 1), mask(i)) for i in range(3)]))
    assert videos["0601"]["frames"] == "5" and videos["0601"]["cc_undefined"] == "0"
    overall = {row["average"]: row for row in rows_of(tmp_path / "overall.csv")}
    assert set(overall) == {"frames", "videos", "undefined frames"}
    assert float(overall["videos"]["cc"]) == report.overall("videos")["cc"]
    content = json.loads((tmp_path / "scores.json").read_text())
    assert content["overall"]["frames"] == report.overall("frames") and content["frames"] == 8
    text = (tmp_path / "model_index.yaml").read_text()
    assert text.startswith("model-index:") and "type: dhf1k" in text and "split: val" in text
    assert f"value: {round(report.overall()['cc'], 6)}" in text
    assert not (tmp_path / ".partial").exists()


def test_parquet_where_pyarrow_is(tmp_path, data) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    report = score_dataset(Shifted(), DatasetScorer(data.items, metrics=["cc"]), tmp_path, frames_format="parquet")
    rows = parquet.read_table(tmp_path / "frames.parquet").to_pylist()
    assert len(rows) == 8 and rows[5]["video"] == "0602"
    assert np.mean([row["cc"] for row in rows]) == pytest.approx(report.overall("frames")["cc"])
    source = Shifted()
    again = score_dataset(source, DatasetScorer(data.items, metrics=["cc"]), tmp_path)
    assert again.overall() == report.overall() and not source.asked


def test_a_run_goes_on_and_other_settings_are_refused(tmp_path, data) -> None:
    def scorer(**options):
        return DatasetScorer(data.items, "mit", metrics=["cc", "nss"], **options)

    with pytest.raises(OSError, match="the disk is gone"):
        score_dataset(Shifted(fail_at="0602"), scorer(), tmp_path / "out", frames_format="csv")
    assert not (tmp_path / "out" / "scores.json").exists()
    with pytest.raises(ValueError, match="other settings \\(metrics\\)"):
        score_dataset(Shifted(), DatasetScorer(data.items, "mit", metrics=["cc"]), tmp_path / "out")
    source = Shifted()
    score_dataset(source, scorer(workers=2), tmp_path / "out", frames_format="csv")
    assert source.asked == ["0602"]
    score_dataset(Shifted(), scorer(), tmp_path / "whole", frames_format="csv")
    for name in ("frames.csv", "videos.csv", "overall.csv", "scores.json", "model_index.yaml"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    finished = Shifted()
    report = score_dataset(finished, scorer(), tmp_path / "out", frames_format="csv")
    assert not finished.asked and report.num_missing == 0
    assert report.to_dict() == json.loads((tmp_path / "out" / "scores.json").read_text())
    with pytest.raises(ValueError, match="other settings \\(protocol\\)"):
        score_dataset(Shifted(), DatasetScorer(data.items, "dhf1k", metrics=["cc", "nss"]), tmp_path / "out")


def test_changed_predictions_are_other_settings(tmp_path, data) -> None:
    write_predictions(tmp_path / "maps", "npz")
    before = FolderMaps(tmp_path / "maps").settings
    write_predictions(tmp_path / "maps", "npz")
    assert FolderMaps(tmp_path / "maps").settings != before


@pytest.mark.parametrize("preset", ["mit", "dhf1k", "unisal", "vinet2", "diffsal", "stavis"])
def test_workers_change_nothing(data, preset: str) -> None:
    results = []
    for workers in (1, 3):
        with DatasetScorer(data.items, preset, workers=workers) as scorer:
            results.append([frame for position in range(2) for frame in scorer.score_item(position, Shifted())])
    assert [frame.frame_index for frame in results[0]] == [0, 1, 2, 3, 4, 0, 1, 2]
    assert results[0] == results[1]
    assert "ig" not in results[0][0].scores
    assert not any(math.isnan(score) for score in results[0][0].scores.values())


def test_shuffled_auc_takes_the_others_that_the_protocol_names(data) -> None:
    for preset in ("mit", "stavis", "dhf1k"):
        protocol = get_protocol(preset)
        pool = OtherFixations(seed=protocol.seed)
        for item in data:
            for index, fixations in enumerate(item.load_fixations(range(item.num_frames))):
                pool.add(item.id, index, np.argwhere(fixations), SIZE)
        other = pool.other(protocol.other_rule, "0602", 1, SIZE, num_frames=protocol.num_other_frames)
        expected = score_frame(density(2), FrameTruth(density(1), mask(1), other), protocol, metrics=["sauc"])
        with DatasetScorer(data.items, preset, metrics=["sauc"]) as scorer:
            assert list(scorer.score_item(1, Shifted()))[1].scores == expected


def test_information_gain_over_a_centre_bias(data) -> None:
    bias = CentreBias(CentreGaussian().predict(BaselineFrame(SIZE)))
    with DatasetScorer(data.items, metrics=["ig"], centre_bias=bias) as scorer:
        scores = [frame.scores["ig"] for frame in scorer.score_item(1, Shifted())]
    assert scores[0] == pytest.approx(ig(density(1), mask(0), bias.bias))


def test_frames_that_the_protocol_draws(data) -> None:
    drawn = DatasetScorer(data.items, replace(get_protocol("mit"), max_frames=4), metrics=["cc"])
    frames = [drawn.frames_of(position) for position in range(2)]
    assert sum(map(len, frames)) == 4 and set(frames[0]) <= set(range(5)) and set(frames[1]) <= set(range(3))
    skipping = DatasetScorer(data.items, replace(get_protocol("diffsal"), skip_first=1, skip_last=1))
    assert [skipping.frames_of(position) for position in range(2)] == [[1, 2, 3], [1]]
    masked = [replace(data.items[0], scored_frames=(1, 3)), replace(data.items[1], scored_frames=())]
    with DatasetScorer(masked, "meta", metrics=["cc"]) as scorer:
        assert [frame.frame_index for frame in scorer.score_item(0, Shifted())] == [1, 3]
        assert list(scorer.score_item(1, Shifted())) == []
    with pytest.raises(ValueError, match="has no masks"):
        DatasetScorer(data.items, "meta").frames_of(0)


def test_undefined_frames_are_counted(tmp_path) -> None:
    make_dhf1k(tmp_path, {601: 4}, as_video=False)
    home = tmp_path / "annotation" / "0601"
    write_pictures(home / "fixation", ["0002.png"], [np.zeros(SIZE, dtype=np.uint8)])
    write_pictures(home / "maps", ["0003.png"], [np.zeros(SIZE, dtype=np.uint8)])
    (home / "fixation" / "0004.png").unlink()
    dataset = open_dataset("dhf1k", tmp_path, split="val")
    report = score_dataset(Shifted(), DatasetScorer(dataset.items, metrics=["cc", "nss"]), tmp_path / "out")
    assert report.num_undefined() == {"cc": 1, "nss": 2}
    assert report.overall()["nss"] == pytest.approx(np.mean([nss(density(i + 1), mask(i)) for i in (0, 2)]))
    with (
        DatasetScorer(dataset.items, "avimos") as scorer,
        pytest.raises(ValueError, match="0601, frame 1 has no auc_judd, nss .*protocol avimos stops"),
    ):
        list(scorer.score_item(0, Shifted()))


def test_missing_and_surplus_predictions(tmp_path, data) -> None:
    write_predictions(tmp_path / "maps", "png")
    (tmp_path / "maps" / "0601" / "png" / "eyeMap_00002.png").unlink()
    (tmp_path / "maps" / "0601" / "png" / "eyeMap_00005.png").unlink()

    def score(name: str, **options):
        scorer = DatasetScorer(data.items, metrics=["cc"], **options)
        return score_dataset(FolderMaps(tmp_path / "maps"), scorer, tmp_path / name, frames_format="csv")

    with pytest.raises(ValueError, match="0601 has no prediction for frame 1 .*--allow-missing"):
        score("refused")
    report = score("lenient", allow_missing=True)
    assert report.num_missing == 2
    assert [row["frame"] for row in rows_of(tmp_path / "lenient" / "frames.csv")] == ["0", "2", "3", "0", "1", "2"]
    for path in (tmp_path / "maps" / "0602" / "png").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="no maps for 1 of 2 items \\(0602\\)"):
        score("other")
    assert score("without", allow_missing=True).num_missing == 5
    MapPngWriter(tmp_path / "maps" / "0602").write(3, 0.0, small_map(0))
    with pytest.raises(ValueError, match="belong to no frame of 0602"):
        score("surplus", allow_missing=True)
    writer = MapShardWriter(tmp_path / "maps" / "0602" / "maps")
    for index in range(4):
        writer.write(index, 0.0, small_map(index))
    writer.flush()
    with pytest.raises(ValueError, match="has frame 3, the clip only 3 frames"):
        score("longer", allow_missing=True)


def test_a_model_is_scored_without_writing_frames(tmp_path, data) -> None:
    model, processor = echo_model()
    source = ModelMaps(VideoSaliencyPredictor(model, processor), "echo")
    report = score_dataset(source, DatasetScorer(data.items, metrics=["cc"], workers=2), tmp_path)
    predictor = VideoSaliencyPredictor(model, processor)
    maps = [frame.model_map.numpy() for frame in predictor.stream(np.stack([picture(i) for i in range(3)]))]
    expected = [score_frame(maps[i], FrameTruth(density(i)), metrics=["cc"])["cc"] for i in range(3)]
    assert report.accumulator.videos()["0602"]["cc"] == pytest.approx(np.mean(expected), abs=1e-6)
    other, _ = tiny_gfsalnet(streams="appearance")
    assert ModelMaps(VideoSaliencyPredictor(other, processor), "echo").settings != source.settings


def means_by_hand(maps: list[np.ndarray], stills: StillFixations) -> dict[str, dict[str, float]]:
    """The same means from the metric functions alone."""
    rows = []
    for index, saliency_map in enumerate(maps):
        points = stills.fixation_points(index, saliency_map.shape)
        truth = fixation_density(points, saliency_map.shape)
        rows.append((nss(saliency_map, points), cc(saliency_map, truth), auc_judd(saliency_map, points)))
    table, sets = np.array(rows), np.array([item.dataset for item in stills.items])
    groups = {"all": table, **{name: table[sets == name] for name in sorted(set(sets.tolist()))}}
    return {
        name: {"images": len(chosen), **dict(zip(("nss", "cc", "auc_judd"), np.nanmean(chosen, axis=0), strict=True))}
        for name, chosen in groups.items()
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_the_table_of_a_card(tmp_path, workers: int) -> None:
    make_still_folder(tmp_path)
    stills = StillFixations(tmp_path, split="val")
    model, processor = tiny_gfsalnet(streams="appearance")
    maps = predict_maps(model, processor, stills)
    expected = means_by_hand(maps, stills)
    for predictions in (maps, VideoSaliencyPredictor(model, processor)):
        found = score_stills(predictions, stills, workers=workers)
        assert list(found) == list(expected) == ["all", "left", "right"]
        for name, row in expected.items():
            assert found[name] == pytest.approx(row, abs=1e-9)
    with pytest.raises(ValueError, match="pass one for each"):
        score_stills(maps[:1], stills)


def test_people_predict_people(tmp_path) -> None:
    make_still_folder(tmp_path, observers=8)
    with np.load(tmp_path / "fixations.npz") as arrays:
        content = dict(arrays)
    stills = StillFixations(tmp_path)
    items = [StillAtSize(stills, position, (48, 64)) for position in range(len(stills))]
    source = BaselineMaps(HumanHalves(), "human_halves")
    with DatasetScorer(items, metrics=["nss"]) as scorer, pytest.raises(ValueError, match="does not tell"):
        list(scorer.score_item(0, source))
    # two fixations of each of four observers
    np.savez(tmp_path / "fixations.npz", **content, observer=np.arange(len(content["image"])) % 8 // 2)
    for chosen in (items, open_dataset("stills", tmp_path).items):
        with DatasetScorer(chosen, metrics=["nss", "cc"]) as scorer:
            people = [frame.scores["nss"] for p in range(10) for frame in scorer.score_item(p, source)]
            gaussian = BaselineMaps(CentreGaussian(), "centre_gaussian")
            centre = [frame.scores["nss"] for p in range(10) for frame in scorer.score_item(p, gaussian)]
        assert np.mean(people) > 2 > 0.5 > np.mean(centre)
    frame = next(iter(items[0].annotations()))
    assert len(source.truth(items[0], frame).fixations) == 4


def test_training_part_of_a_split() -> None:
    splits = {name: SplitInfo(None) for name in ("all", "train_1", "test_1")}
    info = DatasetInfo("x", "X", "", "", splits, ("all",), read=lambda root, split: None)
    assert training_split(info, "test_1") == "train_1"
    with pytest.raises(ValueError, match="X has no training part for split all"):
        training_split(info, "all")
    assert training_split(replace(info, splits={"train": SplitInfo(None)}), "val") == "train"


def test_published_tables() -> None:
    tables = published_tables()
    assert len({table.source.partition(";")[0] for table in tables}) == 4
    for table in tables:
        assert table.rows and table.protocol and table.part
        protocol = get_protocol(table.preset)
        for row in table.rows.values():
            assert set(row) <= set(protocol.metrics) | {"kld", "sauc"}
            assert all(0.2 < row[name] < 1 for name in ("auc_judd", "cc", "sim")) and 1 < row["nss"] < 7
    assert tables_for("dhf1k", "val")[0].split == "val"
    winner = tables_for("ntire26")[0].rows["ViSAGE"]
    assert winner == {"cc": 0.828, "sim": 0.693, "auc_judd": 0.892, "nss": 3.323}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda data: DatasetScorer([]), "no items"),
        (lambda data: DatasetScorer(data.items, workers=0), "at least 1"),
        (lambda data: DatasetScorer(data.items, "mitt"), "preset is 'mitt'"),
        (lambda data: DatasetScorer(data.items, metrics=["f1"]), "metric is 'f1'"),
        (lambda data: DatasetScorer(data.items, metrics=["ig"]), "ig cannot be scored here, there is no baseline"),
        (
            lambda data: DatasetScorer([replace(data.items[0], fixation_files=None)], metrics=["nss"]),
            "there is no fixations: choose among",
        ),
    ],
)
def test_wrong_input(data, call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(data)
