# SPDX-License-Identifier: Apache-2.0
"""What is known of the origin of weights goes along with them: through training, adapters and merging."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from small_repositories import make_clip_array, save_small_model
from training_factory import reset_accelerate, tiny_content
from transformers import pipeline

from video_saliency.loading import load_model
from video_saliency.training.lora import merge_adapter
from video_saliency.training.training_run import RunOptions, train_recipe
from video_saliency.weights_record import join_records, read_record, record_licence, untrained_tensors

TRUNK = {
    "title": "A trunk",
    "file": "trunk.pth",
    "sha256": "ab" * 32,
    "licence": "cc-by-nc-sa-4.0",
    "terms": "Non-commercial use only.",
}
HEAD, STEM = "fusion.projection.weight", "streams.motion.trunk.embedder.embedder.convolution.weight"


def make_record(*untrained: str, **source: str | None) -> dict:
    return {"sources": {"backbone": TRUNK | source}, "initialised": {"seed": 0, "keys": list(untrained)}}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with clips and a converted model whose fusion nobody trained."""
    folder = tmp_path_factory.mktemp("records")
    save_small_model("gfsalnet", folder / "converted")
    (folder / "converted" / "conversion.json").write_text(json.dumps(make_record(HEAD)))
    return folder


def train(home: Path, output: Path, start: Path, **changes) -> Path:
    content = tiny_content(home / "clips", loop={"steps": 1, "accumulation": 1}, **changes)
    content["model"] = {"name_or_path": str(start), **changes.get("model", {})}
    recipe = output.with_suffix(".yaml")
    recipe.write_text(yaml.safe_dump(content))
    reset_accelerate()
    try:
        train_recipe(RunOptions(recipe, output))
    finally:
        reset_accelerate()
    return output


def check_terms(folder: Path, *, licence: str = "cc-by-nc-sa-4.0") -> dict:
    """That record and card of a trained model name its source; returns the record."""
    record = json.loads((folder / "conversion.json").read_text())
    assert record["sources"]["backbone"] == TRUNK
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == licence
    section = card.text.split("## Licence\n")[1]
    assert "`trunk.pth`" in section and "Non-commercial use only." in section
    return record


def warnings_of(caplog, function, *arguments) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="video_saliency"):
        function(*arguments)
    return [entry.getMessage() for entry in caplog.records if "random values" in entry.getMessage()]


@pytest.mark.parametrize("with_validation", [False, True])
def test_a_trained_model_keeps_the_terms_of_its_start(home, tmp_path, with_validation, caplog):
    changes = {}
    if with_validation:  # the model folder is a copy of the best one then
        changes = {"data": {"validation": [{"dataset": "folder", "split": "val", "root": str(home / "clips")}]}}
    run = train(home, tmp_path / "run", home / "converted", license="apache-2.0", **changes)
    record = check_terms(run / "model")
    assert "initialised" not in record, "it was trained"
    assert "the recipe says apache-2.0" in caplog.text
    assert warnings_of(caplog, load_model, str(run / "model")) == []


def test_an_adapter_and_the_merged_model_keep_the_terms(home, tmp_path, caplog):
    start = shutil.copytree(home / "converted", tmp_path / "start")
    (start / "conversion.json").write_text(json.dumps(make_record(HEAD, STEM)))
    run = train(home, tmp_path / "run", start, lora={"enabled": True, "rank": 2, "merge": True})
    for name in ("model", "merged"):
        # the head is trained whole, the stem of the trunk is not
        assert untrained_tensors(check_terms(run / name)) == [STEM]
        assert "## Not trained" in (run / name / "README.md").read_text()
    assert len(warnings_of(caplog, load_model, str(run / "merged"))) == 1
    # an adapter that came without a record has that of its base
    (run / "model" / "conversion.json").unlink()
    merge_adapter(run / "model", tmp_path / "again")
    assert untrained_tensors(read_record(str(tmp_path / "again"))) == [STEM]
    again = train(home, tmp_path / "from_merged", run / "merged")
    check_terms(again / "model")


def test_the_base_of_an_adapter_with_a_changed_config_keeps_the_whole_record(home, tmp_path):
    changed = {"name_or_path": str(home / "converted"), "config": {"cc_loss_weight": 0.1}}
    run = train(home, tmp_path / "run", home / "converted", lora={"enabled": True, "rank": 2}, model=changed)
    assert untrained_tensors(read_record(str(run / "base"))) == [HEAD]
    assert untrained_tensors(read_record(str(run / "model"))) == []


def test_weights_of_another_model_bring_their_terms(home, tmp_path):
    save_small_model("gfsalnet", tmp_path / "plain")
    taken = {"weights_from": {r"streams\.motion\..*": str(home / "converted")}}
    run = train(home, tmp_path / "run", tmp_path / "plain", model={"name_or_path": str(tmp_path / "plain"), **taken})
    check_terms(run / "model")


def test_a_start_without_a_record_is_named_with_the_licence_of_its_card(home, tmp_path):
    save_small_model("gfsalnet", tmp_path / "plain")
    (tmp_path / "plain" / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# A model\n")
    run = train(home, tmp_path / "run", tmp_path / "plain")
    card = ModelCard.load(run / "model" / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert "started from plain, whose terms hold. Its card names `cc-by-4.0`" in card.text
    assert not (run / "model" / "conversion.json").exists()


def test_two_files_of_one_source_stand_side_by_side():
    first, second = make_record("a"), make_record("b", sha256="cd" * 32, licence="mit")
    joined = join_records([("one", first), ("two", first), ("three", second)])
    assert list(joined["sources"]) == ["backbone", "backbone of three"]
    assert untrained_tensors(joined) == ["a", "b"] and record_licence(joined) == "other"
    assert list(first["sources"]) == ["backbone"] and untrained_tensors(first) == ["a"], "the given ones stay"
    assert join_records([]) is None


def test_weights_that_were_never_filled_are_told_when_they_are_loaded(home, caplog):
    folder = str(home / "converted")
    assert [HEAD in message for message in warnings_of(caplog, load_model, folder)] == [True]
    maps = warnings_of(caplog, lambda: pipeline("video-saliency", model=folder, device="cpu")(make_clip_array()))
    assert len(maps) == 1


@pytest.mark.parametrize("text", ["{", "[]", '{"sources": {"flow": {"file": "a.pth"}}}'])
def test_a_damaged_record_stops_training_and_not_prediction(home, tmp_path, text, caplog):
    start = shutil.copytree(home / "converted", tmp_path / "start")
    (start / "conversion.json").write_text(text)
    assert warnings_of(caplog, load_model, str(start)) == []
    with pytest.raises(ValueError, match=r"conversion.json of .*start is damaged"):
        train(home, tmp_path / "run", start)
