# SPDX-License-Identifier: Apache-2.0
"""Exported repositories: plain, self-contained and sharded, and what saving them again leaves."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import TOKEN, HubServer
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file
from small_repositories import SMALL_SYSTEMS, make_clip_array, save_small_model
from transformers import CONFIG_MAPPING, AutoModel, AutoProcessor, pipeline

from video_saliency.cli.convert import CONVERTERS
from video_saliency.cli.info import describe
from video_saliency.conversion import model_card
from video_saliency.defaults import DEFAULT_MODEL
from video_saliency.models.auto import MODEL_FOR_VIDEO_SALIENCY_MAPPING
from video_saliency.training import training_run

SCRIPTS = Path(__file__).parent.parent / "hub_scripts"
sys.path.insert(0, str(SCRIPTS))

import flatten_code  # noqa: E402
import make_cards  # noqa: E402
from export_model import export_model, main  # noqa: E402
from licence_notes import licence_notes  # noqa: E402
from push_files import push  # noqa: E402
from repository_files import ADAPTER_FILES, MODEL_FILES, model_files  # noqa: E402

PLAIN = {"LICENSE", "NOTICE.md", "README.md", "config.json", "model.safetensors", "processor_config.json"}


@pytest.fixture(scope="module")
def repositories(tmp_path_factory) -> dict[str, Path]:
    """Self-contained repositories of every system (small, random weights) and of the embedded default."""
    folder = tmp_path_factory.mktemp("repositories")
    exported = {"default": folder / "default"}
    export_model(DEFAULT_MODEL, exported["default"], self_contained=True)
    for name in SMALL_SYSTEMS:
        save_small_model(name, folder / f"{name}-small")
        exported[name] = folder / name
        export_model(str(folder / f"{name}-small"), exported[name], self_contained=True)
    return exported


def test_every_registered_model_is_exported_here():
    assert {config.model_type for config in MODEL_FOR_VIDEO_SALIENCY_MAPPING} == {
        make_model()[0].config.model_type for make_model in SMALL_SYSTEMS.values()
    }


def test_plain_repository_gives_equal_maps(tmp_path, capsys):
    assert main(["--output", str(tmp_path / "repo")]) == 0
    names = {path.name for path in (tmp_path / "repo").iterdir()}
    assert names == PLAIN | {"scores.json", "speed.json"}
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)
    stored = Path(DEFAULT_MODEL, "model.safetensors").read_bytes()
    assert (tmp_path / "repo" / "model.safetensors").read_bytes() == stored, "it must not grow to float32"
    assert [file.path for file in model_files(tmp_path / "repo")] == sorted(names)
    clip = make_clip_array()
    exported, default = (
        pipeline("video-saliency", model=str(folder), device="cpu")(clip)["saliency_maps"]
        for folder in (tmp_path / "repo", DEFAULT_MODEL)
    )
    assert torch.equal(exported, default)


def test_large_weights_are_sharded(tmp_path):
    save_small_model("gfsalnet", tmp_path / "small")
    files = export_model(str(tmp_path / "small"), tmp_path / "repo", max_shard_size="20KB")
    shards = [path.name for path in files if path.suffix == ".safetensors"]
    assert len(shards) > 2
    index = json.loads((tmp_path / "repo" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(shards)
    small, sharded = (AutoModel.from_pretrained(tmp_path / name) for name in ("small", "repo"))
    expected = small.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in sharded.state_dict().items())
    model_files(tmp_path / "repo")
    (tmp_path / "repo" / shards[0]).unlink()
    with pytest.raises(ValueError, match=f"{shards[0]} is missing"):
        model_files(tmp_path / "repo")


WITHOUT_PACKAGE = """
import sys
sys.modules["video_saliency"] = None  # importing it raises ImportError
import json, torch
from transformers import CONFIG_MAPPING, AutoModel, AutoProcessor, pipeline
clip = torch.load({clip!r}, weights_only=True)
trusted = {{"trust_remote_code": True}}

def same(pipe):
    assert torch.equal(pipe(clip)["saliency_maps"], maps), name

for name, repository in json.loads({repositories!r}).items():
    again = {again!r} + "/" + name
    model = AutoModel.from_pretrained(repository, **trusted).eval()
    processor = AutoProcessor.from_pretrained(repository, **trusted)
    assert type(model).__module__.startswith("transformers_modules"), type(model)
    pipe = pipeline("video-saliency", model=repository, device="cpu", **trusted)
    maps = pipe(clip)["saliency_maps"]
    torch.save(maps, again + ".pt")
    same(type(pipe)(model=model, processor=processor, device=torch.device("cpu")))
    if "/" in name:
        continue
    model.save_pretrained(again)
    processor.save_pretrained(again)
    same(pipeline(model=again, device="cpu", **trusted))  # also finds the task
"""


def run_without_package(code: str, tmp_path: Path, **environment: str) -> None:
    variables = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", **environment}
    for name in ("PYTHONPATH", "HF_HUB_OFFLINE"):
        variables.pop(name, None)
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-4000:]


def test_self_contained_repositories_load_without_the_package(repositories, tmp_path, monkeypatch):
    clip = torch.from_numpy(make_clip_array())
    torch.save(clip, tmp_path / "clip.pt")
    names = {name: str(folder) for name, folder in repositories.items()}
    (tmp_path / "again" / "org").mkdir(parents=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with HubServer() as hub:
        api = HfApi(endpoint=hub.url, token=TOKEN)
        for name, folder in list(repositories.items()):
            push(api, folder, model_files(folder), f"org/{name}", repo_type="model", public=True)
            names[f"org/{name}"] = f"org/{name}"
        code = WITHOUT_PACKAGE.format(
            clip=str(tmp_path / "clip.pt"), repositories=json.dumps(names), again=str(tmp_path / "again")
        )
        run_without_package(code, tmp_path, HF_ENDPOINT=hub.url)
    for name, folder in repositories.items():
        expected = pipeline("video-saliency", model=str(folder), device="cpu")(clip)["saliency_maps"]
        for way in (name, f"org/{name}"):
            maps = torch.load(tmp_path / "again" / f"{way}.pt", weights_only=True)
            assert torch.equal(maps, expected), way
        # what was saved without the package is as complete as what was exported
        code_files = {path.name for path in folder.glob("*.py")}
        assert {path.name for path in (tmp_path / "again" / name).glob("*.py")} == code_files


def test_saving_again_with_the_package_leaves_a_plain_repository(repositories, tmp_path):
    clip = make_clip_array()
    for name, folder in repositories.items():
        model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
        assert type(model).__module__.startswith("video_saliency.")
        model.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
        for file in ("config.json", "processor_config.json"):
            assert not {"auto_map", "custom_pipelines"} & set(json.loads((tmp_path / name / file).read_text()))
        assert not list((tmp_path / name).glob("*.py"))
        again, first = (
            pipeline("video-saliency", model=str(path), device="cpu")(clip)["saliency_maps"]
            for path in (tmp_path / name, folder)
        )
        assert torch.equal(again, first)


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    """A small model with the record and the card that `video-saliency convert` writes."""
    folder = save_small_model("gfsalnet", tmp_path_factory.mktemp("converted") / "model")
    source = {"title": "A trunk", "file": "trunk.pth", "sha256": "ab" * 32, "licence": "cc-by-nc-sa-4.0"}
    source |= {"terms": "Non-commercial use only.", "keys": 10, "tensors_in_model": 10}
    record = {"converted_by": "video-saliency 0", "model_type": "gfsalnet_saliency", "dtype": "float32"}
    record |= {"parameters": 1, "sources": {"backbone": source}, "initialised": {"seed": 3, "keys": ["a", "b"]}}
    (folder / "conversion.json").write_text(json.dumps(record))
    (folder / "README.md").write_text(model_card(record))
    return folder


def test_a_converted_model_keeps_the_record_of_its_weights(converted, tmp_path):
    names = {path.name for path in export_model(str(converted), tmp_path / "repo")}
    assert names == PLAIN | {"conversion.json"}
    for name in ("README.md", "NOTICE.md"):
        text = (tmp_path / "repo" / name).read_text()
        assert "`trunk.pth`" in text and "Non-commercial use only." in text


def test_the_card_of_a_converted_model_is_about_these_weights(converted, tmp_path):
    export_model(str(converted), tmp_path / "repo", repository="org/mine")
    card = ModelCard.load(tmp_path / "repo" / "README.md")
    assert (card.data.license, card.data.get("license_name")) == ("cc-by-nc-sa-4.0", None)
    parameters = AutoModel.from_pretrained(converted).num_parameters()
    assert f"| parameters | {parameters:,} |" in card.text
    size = AutoProcessor.from_pretrained(converted).size
    assert f"| input size | {size['height']} x {size['width']} (height x width) |" in card.text
    assert "on the configuration of this repository" in card.text
    assert "It comes without trained weights" not in card.text and "Its weights are from files of others" in card.text
    assert "## Not trained" in card.text and "No file filled 2 tensors" in card.text and "(seed 3)" in card.text
    assert 'pipeline("video-saliency", model="org/mine")' in card.text
    assert "ORGANISATION" not in card.content and "THIS_REPOSITORY" not in card.content
    assert "## Limits and biases" in card.text and card.text.count("## These weights") == 1
    export_model(str(tmp_path / "repo"), tmp_path / "again", repository="org/mine")
    assert (tmp_path / "again" / "README.md").read_text() == (tmp_path / "repo" / "README.md").read_text()


def test_a_trained_model_keeps_its_card(converted, tmp_path):
    trained = shutil.copytree(converted, tmp_path / "trained")
    (trained / "training.json").write_text("{}")
    (trained / "README.md").write_text('# Mine\n\nmodel="THIS_REPOSITORY"\n')
    export_model(str(trained), tmp_path / "repo", repository="org/mine")
    assert (tmp_path / "repo" / "README.md").read_text() == '# Mine\n\nmodel="org/mine"\n'
    assert "Non-commercial use only." in (tmp_path / "repo" / "NOTICE.md").read_text()


@pytest.mark.parametrize(
    ("card", "notice"),
    [
        (None, "PWC-Net: NVIDIA"),
        ("# A model\n", "PWC-Net: NVIDIA"),
        ("---\nlicense: mit\n---\n# A model\n", "the head of `README.md` names the licence `mit`"),
        ("# A model\n\n## Licence and terms\n\nAsk.\n", 'see the section "Licence and terms" of `README.md`'),
    ],
)
def test_the_notice_points_to_nothing_that_is_not_there(tmp_path, card, notice):
    save_small_model("gfsalnet", tmp_path / "small")
    if card is not None:
        (tmp_path / "small" / "README.md").write_text(card)
    export_model(str(tmp_path / "small"), tmp_path / "repo")
    text = (tmp_path / "repo" / "NOTICE.md").read_text()
    assert notice in text
    assert ("see the section" in text) == ("see the section" in notice)


@pytest.mark.parametrize("how", [{}, {"self_contained": True}])
def test_a_model_on_the_hub_is_exported_as_its_folder_is(converted, tmp_path, how):
    """In a new process, whose Hub is the test's own: with records, card and the stored precision."""
    for name, folder in (("default", DEFAULT_MODEL), ("converted", str(converted))):
        export_model(folder, tmp_path / name, repository=f"org/{name}", **how)
    command = [sys.executable, str(SCRIPTS / "export_model.py"), *(["--self-contained"] if how else [])]
    with HubServer() as hub:
        api = HfApi(endpoint=hub.url, token=TOKEN)
        variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        variables = {**{key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}, **variables}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
            for name in ("default", "converted"):
                folder = tmp_path / name
                push(api, folder, model_files(folder), f"org/{name}", repo_type="model", public=True)
        for name in ("default", "converted", "none"):
            again = tmp_path / f"{name}_again"
            options = ["--model", f"org/{name}", "--output", str(again), "--repository", f"org/{name}"]
            done = subprocess.run([*command, *options], env=variables, capture_output=True, text=True, timeout=300)
            if name == "none":
                assert done.returncode == 2 and "cannot download the model 'org/none'" in done.stderr
                assert len(done.stderr.strip().splitlines()) == 1 and not again.exists()
            else:
                assert done.returncode == 0, done.stderr[-3000:]
                first = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
                assert {path.name: path.read_bytes() for path in again.iterdir()} == first


def test_weights_stored_in_float16_stay_so_when_they_are_split(tmp_path):
    stored = load_file(Path(DEFAULT_MODEL, "model.safetensors"))
    assert {value.dtype for value in stored.values()} >= {torch.float16, torch.float32}
    export_model(DEFAULT_MODEL, tmp_path / "split", max_shard_size="1MB")
    export_model(str(tmp_path / "split"), tmp_path / "whole")
    assert not (tmp_path / "split" / "model.safetensors").exists()
    shards = [load_file(path) for path in (tmp_path / "split").glob("*.safetensors")]
    for found in (
        {name: value for shard in shards for name, value in shard.items()},
        load_file(tmp_path / "whole" / "model.safetensors"),
    ):
        assert set(found) == set(stored)
        assert all(
            value.dtype == stored[name].dtype and torch.equal(value, stored[name]) for name, value in found.items()
        )
    model_files(tmp_path / "split")


def test_exporting_again_as_plain_leaves_no_code(repositories, tmp_path):
    files = {path.name for path in export_model(str(repositories["gfsalnet"]), tmp_path / "plain")}
    assert files == PLAIN
    assert "auto_map" not in (tmp_path / "plain" / "config.json").read_text()
    card = (tmp_path / "plain" / "README.md").read_text()
    assert "trust_remote_code" not in card and "carries its code" not in card and "<!--" not in card


def test_exporting_again_with_the_code_says_so_once(repositories, tmp_path):
    for name in ("gfsalnet", "default"):
        export_model(str(repositories[name]), tmp_path / name, self_contained=True)
        card = (tmp_path / name / "README.md").read_text()
        assert card.count("This repository carries its code") == 1
        assert card == (repositories[name] / "README.md").read_text()


def test_files_of_a_self_contained_repository(repositories):
    for name, folder in repositories.items():
        names = {file.path for file in model_files(folder)}
        assert {"pipeline_video_saliency.py", "processing_video_saliency.py", "windows.py"} <= names
        system = "gfsalnet" if name == "default" else name
        assert {other for other in SMALL_SYSTEMS if f"modeling_{other}.py" in names} == {system}
        assert "trust_remote_code=True" in (folder / "README.md").read_text()
        assert "Apache License" in (folder / "LICENSE").read_text()
        for path in folder.glob("*.py"):
            assert "from video_saliency" not in path.read_text().replace(">>> from video_saliency", ""), path


def test_what_training_uploads_is_what_these_scripts_let_through():
    assert set(training_run.MODEL_FILES) <= {*MODEL_FILES, *ADAPTER_FILES}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--model", "/nonexistent-model-folder"],
        ["--model", "nowhere"],
        ["--max-shard-size", "5"],
        ["--repository", "mine"],
    ],
)
def test_wrong_use_is_told(tmp_path, capsys, arguments):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").write_text("stays")
    output = tmp_path / ("old" if not arguments else "new")
    assert main(["--output", str(output), *arguments]) == 2
    assert "error: " in capsys.readouterr().err
    assert (tmp_path / "old" / "file").read_text() == "stays"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import video_saliency.windows\n", "write 'from video_saliency"),
        ("from video_saliency.metrics import nss\n", "not from a package"),
        ("from . import windows\n", "absolute import"),
        ("import scipy\n", "scipy, which is optional"),
        ('"""A line\nfrom .windows import this\n"""\n', "reads like a relative import"),
    ],
)
def test_code_that_cannot_be_flattened_is_refused(tmp_path, monkeypatch, text, message):
    (tmp_path / "strange_module.py").write_text(f"{text}from __future__ import annotations\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=message):
        flatten_code.flatten(["strange_module"], companions_of="strange_module", companions={})


def test_cards_are_those_of_the_configurations(tmp_path, monkeypatch):
    readme = tmp_path / "README.md"
    readme.write_text((SCRIPTS.parent / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
    assert make_cards.main(["--output", str(tmp_path), "--readme", str(readme)]) == 0
    for name, facts in make_cards.systems().items():
        card = ModelCard.load(tmp_path / f"{name}.md")
        stored = SCRIPTS.parent / "model_cards" / "cards" / f"{name}.md"
        assert str(card) == stored.read_text(encoding="utf-8"), "run make cards"
        assert card.data.library_name == "transformers"
        assert card.data.eval_results is None, "nothing was measured, so nothing may be claimed"
        for heading in ("Inputs", "Weights and licences", "Scores", "Limits and biases", "Citation"):
            assert f"## {heading}\n" in card.text
        assert facts["title"] in card.text
    assert readme.read_text() == (SCRIPTS.parent / "README.md").read_text(encoding="utf-8"), "run make cards"


def test_costs_of_a_card_are_those_that_info_counts():
    small = {"encoder_channels": [8, 16, 16, 32], "encoder_heads": [1, 2, 2, 4], "hidden_size": 12}
    config = {**small, "encoder_depths": [1, 1, 1, 1], "decoder_channels": [8, 6, 4], "audio": False}
    facts = {
        "model_type": "dtfsal_saliency",
        "cost_variants": {"tiny": {"config": config, "paper": {"parameters": 0.05, "operations": 2}}},
        "cost": "{tiny[parameters]} | {tiny[layers]} | {tiny[eager]} | {tiny[as_run]} | {tiny[paper_operations]}",
    }
    described = describe(CONFIG_MAPPING["dtfsal_saliency"](**config), {"height": 224, "width": 384}, "cpu")
    parameters, layers, as_run = described["  all"].split()
    eager = make_cards.cost_text(facts).split(" | ")[2]
    assert float(layers) < float(eager) < float(as_run)
    deviations = [
        f"{100 * (value / paper - 1):+.1f} %"
        for value, paper in ((int(parameters.replace(",", "")) / 1e6, 0.05), (float(layers), 2))
    ]
    expected = [f"{parameters} ({deviations[0]})", f"{layers} ({deviations[1]})", eager, as_run, "2"]
    assert make_cards.cost_text(facts) == " | ".join(expected)
    assert make_cards.cost_text({"model_type": "dtfsal_saliency"}) == ""


def test_a_file_of_facts_types_no_counted_number():
    text = make_cards.systems()["dtfsal"]["cost"]
    assert "{heard[as_run]}" in text
    assert not re.search(r"\d{2}\.\d|\d,\d{3}", text)


def test_licences_in_cards_are_those_that_conversion_records():
    for name, facts in make_cards.systems().items():
        card = make_cards.make_card(name, facts)
        notice = licence_notes(facts["model_type"], None, None)
        for source in CONVERTERS[name].sources.values():
            assert source.terms({}).text in card and source.terms({}).text in notice
        assert "see the repository of the release" not in card
    facts = make_cards.systems()["gfsalnet"]
    with pytest.raises(ValueError, match="can be converted from"):
        make_cards.weight_rows({**facts, "weights": facts["weights"][1:]})
    joined = {"part": "all", "source": "here", "terms_of": ["backbone", "flow", "model"]}
    with pytest.raises(ValueError, match="have different terms"):
        make_cards.weight_rows({**facts, "weights": [joined]})


def test_measured_scores_enter_the_front_matter(tmp_path, monkeypatch):
    name, facts = next(iter(make_cards.systems().items()))
    (tmp_path / "model_index.yaml").write_text(
        "model-index:\n- name: x\n  results:\n  - task: {type: video-saliency}\n"
        "    dataset: {name: DHF1K, type: dhf1k, split: val}\n"
        "    metrics: [{type: nss, value: 2.5, name: NSS, args: protocol dhf1k}]\n"
    )
    measured = [{"folder": str(tmp_path), "command": "video-saliency score --predictions x"}]
    card = ModelCard(make_cards.make_card(name, {**facts, "measured": measured}))
    assert [(result.metric_type, result.metric_value) for result in card.data.eval_results] == [("nss", 2.5)]
    assert "video-saliency score --predictions x" in card.text
    assert np.isclose(float(card.data.eval_results[0].metric_value), 2.5)
