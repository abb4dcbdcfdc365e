# SPDX-License-Identifier: Apache-2.0
"""Every recipe runs from end to end on miniature data; scripts and Accelerate settings can be read."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from training_factory import losses, reset_accelerate

from video_saliency.loading import load_config, load_model, load_processor
from video_saliency.training.recipe_files import make_arguments, read_recipe

EXAMPLES = Path(__file__).parents[1] / "examples"
RECIPES = sorted((EXAMPLES / "recipes").glob("*.yaml"))
# a second step starts from what the first one made
FIRST_STEP = {
    "gfsalnet_video": "gfsalnet_static",
    "default_fusion": "default_appearance",
    "dtfsal_audiovisual": "dtfsal_visual",
    "visage_expert1_stage2": "visage_expert1_stage1",
    "visage_expert2_stage2": "visage_expert2_stage1",
}


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def fresh_accelerate():
    reset_accelerate()
    yield
    reset_accelerate()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def smoke(runs: Path, name: str) -> Path:
    """The finished miniature run of a recipe, made once, with those that it starts from."""
    output = runs / name
    if not (output / "model" / "README.md").exists():
        extra = []
        if name in FIRST_STEP:
            extra = ["--model", str(smoke(runs, FIRST_STEP[name]) / "model")]
        reset_accelerate()
        config = EXAMPLES / "recipes" / f"{name}.yaml"
        load_script("train").main(["--config", str(config), "--smoke", "--output", str(output), *extra])
    return output


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_runs_on_miniature_data(runs, path):
    started = time.monotonic()
    output = smoke(runs, path.stem)
    assert time.monotonic() - started < 60
    assert len(losses(output)) == 3
    model = load_model(str(output / "model"))
    recipe = read_recipe(path, smoke=True)
    assert model.config.model_type == recipe["model"]["architecture"]
    assert load_processor(str(output / "model")).size == recipe["model"]["processor"]["size"]
    # numbers of a miniature run are never shown
    card = (output / "model" / "README.md").read_text()
    assert "Miniature data: no scores." in card and "model-index" not in card
    assert json.loads((output / "model" / "training.json").read_text())["scores"] == {}
    if recipe.get("lora", {}).get("merge"):
        load_model(str(output / "merged"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_where_its_values_come_from(path):
    make_arguments(read_recipe(path))
    text = path.read_text()
    assert re.search(r"^# Source: ", text, re.MULTILINE)
    own = text.split("\nsmoke:")[0]
    for section in ("optimizer", "loop"):
        body = re.search(rf"^{section}:\n((?:  .*\n)+)", own, re.MULTILINE)[1]
        lines = [line for line in body.splitlines() if not line.lstrip().startswith("#")]
        if "which made the embedded model" not in text and "default_appearance.yaml" not in text:
            assert sum("#" in line for line in lines) >= len(lines) * 0.5, body


@pytest.mark.parametrize("name", [name for name in (path.stem for path in RECIPES) if name.startswith("visage")])
def test_visage_cycles_short_clips_in_training_only(runs, name):
    arguments = make_arguments(read_recipe(EXAMPLES / "recipes" / f"{name}.yaml", smoke=True))
    assert arguments.data.short_clips == "cycle"
    assert load_config(str(smoke(runs, name) / "model")).window_spec.tail_policy == "repeat"


def test_a_second_step_starts_from_the_first(runs):
    first = load_model(str(smoke(runs, "default_appearance") / "model")).state_dict()
    second = load_model(str(smoke(runs, "default_fusion") / "model")).state_dict()
    kept = [name for name in first if name.startswith("streams.appearance.")]
    assert kept and all((first[name] == second[name]).all() for name in kept)  # frozen, its statistics as well
    moved = [name for name in kept if (first[name] != second[name.replace("appearance", "motion")]).any()]
    assert moved


@pytest.mark.parametrize("path", sorted((EXAMPLES / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_settings_can_be_read(path):
    config = load_config_from_file(str(path))
    assert config.num_processes >= 1
    assert config.mixed_precision is None  # Accelerate would not use it: the recipe's loop.precision decides
    assert "loop.precision decides" in path.read_text()
    assert "UNTESTED" in path.read_text()


@pytest.mark.parametrize("path", sorted((EXAMPLES / "ablations").glob("*.yaml")), ids=lambda path: path.stem)
def test_tables_of_ablations_can_be_read(path):
    table = load_script("ablate").AblationTable.read(path)
    for row in table.rows:
        recipe = table.recipe_of(row)
        miniature = recipe.pop("smoke")
        make_arguments(recipe)
        assert miniature["validation"]["metrics"] == table.metrics
        assert len(row.paper) <= len(table.metrics)
    assert yaml.safe_load(path.read_text())["rows"]


def test_the_tables_of_dtfsal_have_all_numbers_that_are_known():
    def rows(name: str) -> dict[str, float]:
        found = load_script("ablate").AblationTable.read(EXAMPLES / "ablations" / f"{name}.yaml").rows
        return {row.name: row.paper[0] for row in found}

    visual = rows("dtfsal_visual")
    lengths = {int(name.split()[0]): score for name, score in visual.items() if "frames" in name}
    assert lengths == {4: 0.506, 8: 0.512, 16: 0.547, 48: 0.557} and 0.561 in visual.values()  # with 32 frames
    assert list(rows("dtfsal_fusion").values()) == [0.625, 0.635, 0.667]
    assert list(rows("dtfsal_fusion_avad").values()) == [0.690, 0.696, 0.746]


def test_an_ablation_prints_the_table_of_the_paper_without_numbers_of_its_own(tmp_path, capsys):
    settings = ["--set", "loop.steps=1", "--set", "validation.every=0"]
    table = EXAMPLES / "ablations" / "dtfsal_fusion.yaml"
    load_script("ablate").main(["--table", str(table), "--smoke", "--output", str(tmp_path), *settings])
    shown = capsys.readouterr().out
    rows = [line for line in shown.splitlines() if line.startswith("│")]
    assert [row.split("│")[1].strip() for row in rows] == ["concatenation", "cross-attention", "AMFB"]
    assert rows[2].split("│")[2:8] == [" runs ", " runs ", " runs ", "     runs ", "     0.667 ", "          - "]
    assert "no scores" in shown
    kinds = {json.loads(path.read_text())["fusion"] for path in tmp_path.glob("*/model/config.json")}
    assert kinds == {"concat", "cross_attention", "amfb"}


def test_an_ablation_shows_scores_of_real_runs(capsys):
    ablate = load_script("ablate")
    table = ablate.AblationTable("a table", Path("recipe"), ["cc"], [ablate.Row("full", paper=[0.5])])
    ablate.print_table(table, {"full": {"cc": 0.25}}, is_smoke=False)
    assert re.search(r"full\s*│\s*0\.250\s*│\s*0\.500", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("dtfsal_fusion", {}, "lowest loss on etmd test_1, the data that is scored: test data,"),
        ("dtfsal_fusion_avad", {}, "lowest loss on avad test_1, the data that is scored: test data,"),
        ("dtfsal_visual", {}, "lowest loss on dhf1k val, the data that is scored."),
        ("salfom", {}, "best cc on dhf1k val, the data that is scored."),
        ("gfsalnet", {}, "best cc on ucf_sports test43, the data that is scored: test data,"),
        ("visage_expert1", {}, "best cc on avimos test, the data that is scored: test data,"),
        ("salfom", {"validation": ["ucf_sports:test=F", "stills=S"]}, "best cc on ucf_sports test, stills, the data"),
        ("salfom", {"settings": ["validation.every=0"]}, ""),  # scored once, behind the last update
    ],
)
def test_an_ablation_says_that_it_chose_on_what_it_scores(tmp_path, name, options, expected):
    ablate = load_script("ablate")
    table = ablate.AblationTable.read(EXAMPLES / "ablations" / f"{name}.yaml")
    flags = [f"--{'set' if key == 'settings' else key}={value}" for key, values in options.items() for value in values]
    parsed = ablate.parse_options(["--table", "x", "--output", str(tmp_path), *flags])
    note = ablate.selection_note(table, parsed)
    assert (expected in note) if expected else note == ""
    assert ("test data" in note) == ("test" in note.split(", the data")[0])


def test_a_table_of_real_scores_has_the_note_below_it(tmp_path, monkeypatch, capsys):
    ablate = load_script("ablate")
    monkeypatch.setattr(ablate, "run_row", lambda *_: {"cc": 0.5})
    table = EXAMPLES / "ablations" / "dtfsal_fusion.yaml"
    ablate.main(["--table", str(table), "--output", str(tmp_path)])
    shown = capsys.readouterr().out.rstrip().splitlines()
    assert "etmd test_1" in shown[-1] and "AMFB" in shown[-3]
    ablate.main(["--table", str(table), "--output", str(tmp_path), "--smoke"])
    assert "etmd test_1" not in capsys.readouterr().out


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_that_chooses_on_test_data_says_so(path):
    data = make_arguments(read_recipe(path)).data
    on_test_data = any("test" in (source.split or "") for source in data.validation)
    assert on_test_data == ("chosen on test data" in path.read_text())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("rows: [", "is no table such as"),
        ("- 1", "no mapping"),
        ("title: a table\nmetrics: [cc]\nrecipe: a.yaml\n", "'rows' is missing"),
        ("title: a table\nmetrics: [cc]\nrows: []\n", "'recipe' is missing"),
        ("title: a table\nmetrics: [cc]\nrecipe: a.yaml\nrows: [{wings: 2}]\n", "wings"),
        ("title: a table\nmetrics: [cc]\nrecipe: a.yaml\nrows: 3\n", "is no table such as"),
    ],
)
def test_a_damaged_table_ends_with_a_line(tmp_path, text, message):
    path = tmp_path / "table.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        load_script("ablate").main(["--table", str(path), "--output", str(tmp_path / "run")])
