# SPDX-License-Identifier: Apache-2.0
"""The push scripts end to end against a local Hub: what is sent, what is refused, and that it can be read back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml
from hub_server import TOKEN, HubServer
from huggingface_hub import HfApi
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from small_repositories import make_clip_array, save_small_model
from training_factory import reset_accelerate, tiny_content
from transformers import AutoModel, pipeline

from video_saliency.defaults import DEFAULT_MODEL
from video_saliency.training.training_run import RunOptions, train_recipe

SCRIPTS = Path(__file__).parent.parent / "hub_scripts"
sys.path.insert(0, str(SCRIPTS))

import push_files  # noqa: E402
import push_metric  # noqa: E402
import push_model  # noqa: E402
import push_space  # noqa: E402
from card_texts import with_repository  # noqa: E402
from export_model import export_model  # noqa: E402
from export_model import main as export_main  # noqa: E402
from repository_files import checked_files  # noqa: E402

KEY = ("model", "org/gfsalnet")


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with HubServer() as server:
        yield server


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.url, token=TOKEN)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """A sharded plain repository; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("exported")
    save_small_model("gfsalnet", folder / "small")
    export_model(str(folder / "small"), folder / "repo", max_shard_size="40KB")
    return folder / "repo"


@pytest.fixture
def repository(exported, tmp_path) -> Path:
    copy = tmp_path / "repo"
    copy.mkdir()
    for path in exported.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Path]:
    """The folders that miniature runs write: a plain model, an adapter, and the adapter merged."""
    home = tmp_path_factory.mktemp("trained")
    for name, lora in (("plain", {}), ("adapted", {"enabled": True, "rank": 2, "merge": True})):
        recipe = tiny_content(home / "clips", loop={"steps": 1, "accumulation": 1}, lora=lora)
        (home / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
        reset_accelerate()
        try:
            train_recipe(RunOptions(home / f"{name}.yaml", home / name))
        finally:
            reset_accelerate()
    return {
        "model": home / "plain" / "model",
        "adapter": home / "adapted" / "model",
        "merged": home / "adapted" / "merged",
    }


def push(folder: Path, api: HfApi, *more: str, repo: str = KEY[1]) -> int:
    return push_model.main([str(folder), "--repo", repo, *more], api)


def contents(hub: HubServer, key: tuple[str, str] = KEY) -> dict[str, bytes]:
    files = hub.repositories[key].files
    return {name: file.data for name, file in files.items() if name != ".gitattributes"}


def on_disk(folder: Path, repo: str = KEY[1]) -> dict[str, bytes]:
    """Names and bytes, the card's with the name of the repository in it."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return files | {"README.md": with_repository(files["README.md"].decode(), repo).encode()}


def test_a_dry_run_lists_and_sends_nothing(repository, hub, api, capsys):
    assert push(repository, api) == 0
    printed = capsys.readouterr().out
    for name, data in on_disk(repository).items():
        assert f"{len(data):14,d}  {name}\n" in printed
    assert "nothing was sent" in printed
    assert hub.log == []


def test_push_creates_a_private_repository_with_these_bytes(repository, hub, api, capsys):
    assert push(repository, api, "--push") == 0
    assert f"{hub.url}/{KEY[1]} is up to date" in capsys.readouterr().out
    assert hub.repositories[KEY].private
    assert contents(hub) == on_disk(repository)
    lfs = {name for name, file in hub.repositories[KEY].files.items() if file.lfs}
    assert lfs == {path.name for path in repository.glob("*.safetensors")} and len(lfs) > 1


def test_the_card_gives_the_name_that_it_was_sent_to(repository, hub, api, tmp_path):
    before = (repository / "README.md").read_bytes()
    assert b'model="THIS_REPOSITORY"' in before
    for repo in (KEY[1], "org/other"):
        assert push(repository, api, "--push", repo=repo) == 0
        assert f'model="{repo}"'.encode() in contents(hub, ("model", repo))["README.md"]
    assert (repository / "README.md").read_bytes() == before, "the folder stays as it is"
    # where the system makes no links, files are copied
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "symlink_to", lambda *arguments: (_ for _ in ()).throw(OSError("not allowed")))
        assert push(repository, api, "--push", repo="org/copied") == 0
    assert contents(hub, ("model", "org/copied")) == on_disk(repository, "org/copied")


def test_a_repository_under_another_name_is_found_by_the_name_that_the_hub_gives(repository, hub, api, monkeypatch):
    asked = []
    create = api.create_repo
    monkeypatch.setattr(api, "create_repo", lambda repo, **options: asked.append(repo) or create("org/new", **options))
    assert push(repository, api, "--push", repo="org/old") == 0
    assert asked == ["org/old"] and list(hub.repositories) == [("model", "org/new")]


@pytest.mark.parametrize("repo", ["noorg", "bad name/!!", "a/b/c", "org/", "org/-x"])
@pytest.mark.parametrize("more", [[], ["--push"]])
def test_names_of_repositories_are_checked_before_anything_happens(repository, hub, api, capsys, repo, more):
    for script, folder in ((push_model, [str(repository)]), (push_space, []), (push_metric, [])):
        assert script.main([*folder, "--repo", repo, *more], api) == 2
        printed = capsys.readouterr()
        assert "write ORG/NAME" in printed.err and printed.out == ""
    assert hub.log == []


def test_public_on_request(repository, hub, api):
    assert push(repository, api, "--push", "--public") == 0
    assert not hub.repositories[KEY].private


def test_an_unchanged_push_makes_no_commit(repository, hub, api, capsys):
    push(repository, api, "--push")
    commits, uploads = len(hub.repositories[KEY].commits), len(hub.requests("PUT", "/_lfs/"))
    assert push(repository, api, "--push") == 0
    assert "was up to date, no commit was made" in capsys.readouterr().out
    assert len(hub.repositories[KEY].commits) == commits
    assert len(hub.requests("PUT", "/_lfs/")) == uploads


def test_a_changed_push_deletes_code_and_shards_of_the_old_state(repository, hub, api, tmp_path):
    code = tmp_path / "code"
    export_model(str(repository), code, self_contained=True)
    push(code, api, "--push")
    assert any(name.endswith(".py") for name in contents(hub))
    assert push(repository, api, "--push") == 0
    assert contents(hub) == on_disk(repository)
    assert push(code, api, "--push") == 0
    assert contents(hub) == on_disk(code)


def test_records_of_an_older_model_do_not_stay_beside_a_new_one(repository, hub, api, tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    for name, data in on_disk(repository).items():
        (old / name).write_bytes(data)
    (old / ".eval_results").mkdir()
    (old / ".eval_results" / "dhf1k.yaml").write_text("a: 1\n")
    for name in ("conversion.json", "training.json", "scores.json", "speed.json"):
        (old / name).write_text('{"sources": {}}')
    assert push(old, api, "--push") == 0
    assert contents(hub) == on_disk(old) and ".eval_results/dhf1k.yaml" in contents(hub)
    api.upload_file(path_or_fileobj=b"mine", path_in_repo="picture.jpg", repo_id=KEY[1])
    assert push(repository, api, "--push") == 0
    assert contents(hub) == on_disk(repository) | {"picture.jpg": b"mine"}, "what no script sends stays"
    managed = {*push_files.MODEL_FILES, *push_files.ADAPTER_FILES, *push_files.SPACE_FILES, *push_files.METRIC_FILES}
    assert managed <= set(push_files.STALE)


def test_a_wrong_token_is_told(repository, hub, capsys):
    assert push(repository, HfApi(endpoint=hub.url, token="hf_wrong"), "--push") == 1
    error = capsys.readouterr().err
    assert "401" in error and "Log in" in error
    assert len(error.splitlines()) == 1
    assert not hub.repositories


def test_no_connection_is_told(repository, capsys):
    assert push(repository, HfApi(endpoint="http://127.0.0.1:9", token=TOKEN), "--push") == 1
    assert "check the connection" in capsys.readouterr().err


def environment(hub: HubServer, tmp_path: Path) -> dict[str, str]:
    source = str(Path(__file__).parent.parent / "src")
    variables = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": source}
    variables["HF_HUB_DISABLE_XET"] = "1"
    return {**{name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}, **variables}


def test_an_interrupted_upload_goes_on_where_it_stopped(repository, hub, api, tmp_path):
    """The process is killed while one shard is on its way and all others have arrived."""
    shards = len(list(repository.glob("*.safetensors")))
    release, held = threading.Event(), []

    def hold(oid: str) -> None:
        if not held:
            held.append(oid)
        if oid == held[0]:
            release.wait(300)

    hub.hold = hold
    command = [sys.executable, str(SCRIPTS / "push_model.py"), str(repository), "--repo", KEY[1], "--push"]
    process = subprocess.Popen(command, env=environment(hub, tmp_path), stderr=subprocess.PIPE)
    deadline = time.monotonic() + 240
    while len(hub.lfs) < shards - 1:
        assert process.poll() is None and time.monotonic() < deadline, "the other shards did not arrive"
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert len(hub.repositories[KEY].commits) == 1, "nothing is visible before all is there"
    hub.hold = lambda oid: None
    before = set(hub.lfs)
    assert push(repository, api, "--push") == 0
    release.set()
    assert contents(hub) == on_disk(repository)
    sent = hub.requests("PUT", "/_lfs/")
    for oid in before:
        assert sum(oid in path for path in sent) == 1, "what had arrived was sent again"


READ_BACK = """
import sys, torch, video_saliency
from transformers import AutoModel, AutoProcessor, pipeline
clip = torch.load(sys.argv[1], weights_only=True)
model = AutoModel.from_pretrained("org/gfsalnet")
processor = AutoProcessor.from_pretrained("org/gfsalnet")
maps = [
    pipeline("video-saliency", model="org/gfsalnet", device="cpu")(clip)["saliency_maps"],
    pipeline("video-saliency", model=model, processor=processor, device="cpu")(clip)["saliency_maps"],
    pipeline("video-saliency", model="org/adapter", device="cpu")(clip)["saliency_maps"],
]
for name in ("org/visage", "org/visage-code"):
    model, processor = AutoModel.from_pretrained(name), AutoProcessor.from_pretrained(name)
    assert type(model).__module__.startswith("video_saliency."), type(model)
    maps += [
        pipeline("video-saliency", model=name, device="cpu")(clip)["saliency_maps"],
        pipeline("video-saliency", model=model.eval(), processor=processor, device="cpu")(clip)["saliency_maps"],
    ]
torch.save(maps, sys.argv[2])
try:
    AutoModel.from_pretrained("org/none")
except OSError as error:
    assert "org/none" in str(error)
else:
    raise SystemExit("no error")
"""


def test_what_was_pushed_is_read_back(repository, hub, api, tmp_path):
    """With the package imported: a GFSalNet, an adapter whose base is in its repository, and a ViSAGE, plain and with
    its code. The token goes to the Hub and to no other host.
    """
    assert push(repository, api, "--push") == 0
    save_small_model("visage", tmp_path / "small")
    for name, how in (("visage", {}), ("visage-code", {"self_contained": True})):
        export_model(str(tmp_path / "small"), tmp_path / name, **how)
        assert push(tmp_path / name, api, "--push", repo=f"org/{name}") == 0
    base = AutoModel.from_pretrained(repository)
    torch.manual_seed(1)
    adapter = get_peft_model(
        base, LoraConfig(r=2, target_modules=r".*multi_level\.\d\.(deep|shallow)", init_lora_weights=False)
    )
    adapter.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "README.md").write_text("An adapter.\n")
    assert push(tmp_path / "adapter", api, "--push", repo="org/adapter") == 2, "its base is a folder"
    settings = tmp_path / "adapter" / "adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"base_model_name_or_path": KEY[1]}))
    assert push(tmp_path / "adapter", api, "--push", repo="org/adapter") == 0

    clip = torch.from_numpy(make_clip_array())
    torch.save(clip, tmp_path / "clip.pt")
    hub.log.clear()
    command = [sys.executable, "-c", READ_BACK, str(tmp_path / "clip.pt"), str(tmp_path / "maps.pt")]
    done = subprocess.run(command, env=environment(hub, tmp_path), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    whole, separate, adapted, *of_visage = torch.load(tmp_path / "maps.pt", weights_only=True)
    maps = pipeline("video-saliency", model=str(tmp_path / "small"), device="cpu")(clip)["saliency_maps"]
    assert len(of_visage) == 4 and all(torch.equal(found, maps) for found in of_visage)
    assert maps.std() > 0
    expected = pipeline("video-saliency", model=str(repository), device="cpu")(clip)["saliency_maps"]
    assert torch.equal(whole, expected) and torch.equal(separate, expected)
    adapter.eval()
    processor = pipeline("video-saliency", model=str(repository), device="cpu").processor
    with_adapter = pipeline("video-saliency", model=adapter.merge_and_unload(), processor=processor, device="cpu")
    torch.testing.assert_close(adapted, with_adapter(clip)["saliency_maps"], atol=1e-5, rtol=0)
    assert not torch.allclose(adapted, expected, atol=1e-3)
    assert hub.requests("GET", "/_lfs/")
    assert not any(authorised for _, path, authorised in hub.log if path.startswith("/_lfs/"))


TRAIN_FROM_HUB = """
import sys
from pathlib import Path
from video_saliency.defaults import DEFAULT_MODEL
from video_saliency.training.training_run import RunOptions, train_recipe
train_recipe(RunOptions(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def test_a_model_trained_from_the_hub_keeps_the_terms_of_its_weights(repository, hub, api, tmp_path):
    source = {"title": "A trunk", "file": "trunk.pth", "sha256": "ab" * 32, "licence": "cc-by-nc-sa-4.0"}
    record = {"sources": {"backbone": source | {"terms": "Non-commercial use only."}}}
    (repository / "conversion.json").write_text(json.dumps(record))
    assert push(repository, api, "--push") == 0
    recipe = tiny_content(tmp_path / "clips", loop={"steps": 1, "accumulation": 1}) | {
        "model": {"name_or_path": KEY[1]}
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-c", TRAIN_FROM_HUB, str(tmp_path / "recipe.yaml"), str(tmp_path / "run")]
    done = subprocess.run(command, env=environment(hub, tmp_path), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "run" / "model" / "conversion.json").read_text()) == record
    export_model(str(tmp_path / "run" / "model"), tmp_path / "again")
    assert push(tmp_path / "again", api, "--push", repo="org/trained") == 0
    files = contents(hub, ("model", "org/trained"))
    assert json.loads(files["conversion.json"]) == record
    for name in ("README.md", "NOTICE.md"):
        assert b"`trunk.pth`" in files[name] and b"Non-commercial use only." in files[name]
    assert b"license: cc-by-nc-sa-4.0" in files["README.md"] and b"base_model: org/gfsalnet" in files["README.md"]


@pytest.mark.parametrize("kind", ["model", "adapter", "merged"])
def test_what_the_trainer_writes_is_pushed_whole(trained, hub, api, tmp_path, capsys, kind):
    folder = shutil.copytree(trained[kind], tmp_path / kind)
    if kind == "adapter":
        assert push(folder, api, "--push") == 2
        assert "write the Hub id of the base" in capsys.readouterr().err
        settings = json.loads((folder / "adapter_config.json").read_text()) | {"base_model_name_or_path": "org/base"}
        (folder / "adapter_config.json").write_text(json.dumps(settings))
    assert push(folder, api, "--push") == 0, capsys.readouterr().err
    assert contents(hub) == on_disk(folder)
    assert f'pipeline("video-saliency", model="{KEY[1]}")' in contents(hub)["README.md"].decode()
    assert json.loads(contents(hub)["training.json"])["steps"] == 1


def test_a_trained_model_is_exported_with_its_record(trained, tmp_path):
    export_model(str(trained["merged"]), tmp_path / "repo", self_contained=True)
    assert (tmp_path / "repo" / "training.json").read_bytes() == (trained["merged"] / "training.json").read_bytes()
    push_model.model_files(tmp_path / "repo")


def test_the_embedded_model_is_exported_by_its_name_also(tmp_path):
    assert export_main(["--model", "default", "--output", str(tmp_path / "repo")]) == 0
    weights = [folder / "model.safetensors" for folder in (tmp_path / "repo", Path(DEFAULT_MODEL))]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize("more", [[], ["--self-contained"]])
def test_an_adapter_is_not_exported_but_told_to_be_merged(trained, tmp_path, capsys, more):
    assert export_main(["--model", str(trained["adapter"]), "--output", str(tmp_path / "repo"), *more]) == 2
    error = capsys.readouterr().err
    assert "is an adapter" in error and "lora.merge=true" in error and "merge_adapter" in error
    assert list(tmp_path.iterdir()) == []


def test_an_auto_map_may_hold_pairs(repository, api, capsys):
    config = json.loads((repository / "config.json").read_text())
    config["auto_map"] = {"AutoTokenizer": ["slow_tokenizer.Slow", None], "AutoModel": "other/code--model.Model"}
    (repository / "config.json").write_text(json.dumps(config))
    assert push(repository, api) == 2
    assert "slow_tokenizer.py is missing" in capsys.readouterr().err
    (repository / "slow_tokenizer.py").write_text("class Slow: ...\n")
    assert push(repository, api) == 0


def test_a_metric_is_pushed_from_its_own_folder(api, capsys, monkeypatch):
    monkeypatch.chdir(push_metric.METRIC)
    assert push_metric.main([".", "--repo", "org/video_saliency_metrics"], api) == 0, capsys.readouterr().err


def test_the_space_and_the_metric_are_pushed(hub, api, capsys):
    assert push_space.main(["--repo", "org/space", "--push"], api) == 0
    files = contents(hub, ("space", "org/space"))
    assert {"README.md", "app.py", "requirements.txt", "friday.mp4"} <= set(files)
    assert not [name for name in files if "pycache" in name]
    assert hub.repositories["space", "org/space"].settings["sdk"] == "gradio"
    assert push_metric.main(["--repo", "org/video_saliency_metrics", "--push"], api) == 0
    assert "video_saliency_metrics.py" in contents(hub, ("space", "org/video_saliency_metrics"))
    assert hub.repositories["space", "org/video_saliency_metrics"].settings["sdk"] == "static"
    commits = len(hub.repositories["space", "org/space"].commits)
    assert push_space.main(["--repo", "org/space", "--push"], api) == 0
    assert len(hub.repositories["space", "org/space"].commits) == commits


# no string here may itself look like a secret to a scanner
SECRETS = ["hf_" + "a1B2" * 9, "AKIA" + "ABCD" * 4, "-----BEGIN RSA " + "PRIVATE KEY-----", "ghp_" + "x" * 36]
SECRETS += [
    "my_hf_" + "a1B2" * 9,
    "AIza" + "b3" * 18,
    "xoxb-" + "1" * 12 + "-abc",
    "xoxp-" + "1" * 12,
    "glpat-" + "c" * 20,
]
SECRETS += ["sk_" + "live_" + "a1" * 12, "WANDB_API" + "_KEY=" + "a1" * 20, '"HF_TO' + 'KEN": "' + "a1" * 20 + '"']
SECRETS += ["https://user:" + "s3cret@example.org/x"]
NO_SECRETS = [
    "HF_TOKEN=os.environ",
    "the sk-learn-like interface",
    "https://example.org:8080/@me",
    "risk-averse-" + "x" * 30,
    "HF_TOKEN=/run/secrets/hf_token_1",
    'HF_TOKEN: "/run/secrets/hf_token_1"',
    "CLASS_TOKEN: torch.zeros_like_2d(x)",
    "CLASS_TOKEN = zeros_like_another_2d(x)",
    "MAX_TOKEN = config.max_position_embeddings2",
]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("notes.docx", b"x", "not a file of such a repository"),
        ("pytorch_model.bin", b"x", "pickled code"),
        ("maps.npz", b"x", "pickled code"),
        (".env", b"x", "not a file of such a repository"),
        ("sub/config.json", b"{}", "not a file of such a repository"),
        ("model-extra.safetensors", b"\x80\x04K\x01.", "no safetensors file"),
        ("scores.json", b"\x80\x04K\x01.", "a pickle under another name"),
        ("scores.json", b"PK\x03\x04", "a pickle under another name"),
        ("extra.py", b"x = 1\n", "not a file of such a repository"),
        ("model[1].safetensors", b"x", "would take for a pattern: rename it"),
        ("scores.json", b"{broken", "no JSON file"),
        ("processor_config.json", b"[", "no JSON file"),
        ("config.json", b"{broken", "no JSON file"),
        ("model.safetensors.index.json", b"{broken", "no JSON file"),
        *[("README.md", f"token: {secret}\n".encode(), "holds a") for secret in SECRETS],
    ],
)
def test_files_that_must_not_be_sent_are_refused(repository, hub, api, capsys, name, data, message):
    (repository / name).parent.mkdir(exist_ok=True)
    (repository / name).write_bytes(data)
    assert push(repository, api, "--push") == 2
    error = capsys.readouterr().err
    assert message in error and name in error
    assert hub.log == []


def test_metadata_of_weights_is_searched_and_harmless_words_pass(repository, api, capsys):
    (repository / "README.md").write_text("\n".join(NO_SECRETS))
    assert push(repository, api) == 0, capsys.readouterr().err
    shard = min(repository.glob("*.safetensors"))
    save_file(load_file(shard), shard, metadata={"format": "pt", "login": SECRETS[0]})
    assert push(repository, api) == 2
    assert f"{shard.name}: holds a token of the Hub" in capsys.readouterr().err


def test_in_code_a_value_without_quotes_is_no_secret(tmp_path):
    code, value = tmp_path / "app.py", "a1/" * 10
    code.write_text("\n".join([*NO_SECRETS, "CLASS_TOKEN = class_token_of_layer_12", "API_KEY: str = read_it_2"]))
    assert [file.path for file in checked_files(tmp_path, ("*.py",), ())] == ["app.py"]
    for quote in ('"', "'", '"' * 3):
        code.write_text("HF_TO" + f"KEN = {quote}{value}{quote}\n")
        with pytest.raises(ValueError, match=r"app.py: holds a key or password"):
            checked_files(tmp_path, ("*.py",), ())


def test_a_model_that_would_not_load_is_refused(repository, api, capsys, tmp_path):
    def refused(folder: Path, *words: str) -> None:
        assert push(folder, api) == 2, words
        error = capsys.readouterr().err
        assert all(word in error for word in words), error

    config = (repository / "config.json").read_text()
    for text, word in (("{}", "is damaged"), ('{"model_type": "bert"}', "not one for video saliency")):
        (repository / "config.json").write_text(text)
        refused(repository, word)
    (repository / "config.json").write_text(config)
    index = json.loads((repository / "model.safetensors.index.json").read_text())
    changed = {**index["weight_map"], "one.more": min(index["weight_map"].values())}
    (repository / "model.safetensors.index.json").write_text(json.dumps({"weight_map": changed}))
    refused(repository, "its files disagree about one.more")
    (repository / "model.safetensors.index.json").write_text("{}")
    refused(repository, "names no weights")
    (repository / "model.safetensors.index.json").unlink()
    refused(repository, "model.safetensors is missing")
    # one file with all, then another beside it
    whole = {name: value for path in repository.glob("*.safetensors") for name, value in load_file(path).items()}
    for path in repository.glob("*.safetensors"):
        path.unlink()
    save_file(whole, repository / "model.safetensors", metadata={"format": "pt"})
    assert push(repository, api) == 0, capsys.readouterr().err
    save_file(whole, repository / "model-old.safetensors")
    refused(repository, "model-old.safetensors is none of the weights")
    (repository / "model-old.safetensors").unlink()
    # weights of another model, also beside code of its own
    export_model(str(repository), tmp_path / "code", self_contained=True)
    first = min(whole)
    for folder in (repository, tmp_path / "code"):
        save_file({**whole, first: whole[first][None]}, folder / "model.safetensors")
        refused(folder, "do not fit its config.json", f"misshapen: {first}")
        others = {name: value for name, value in whole.items() if name != first}
        save_file({**others, "other.weight": whole[first]}, folder / "model.safetensors")
        refused(folder, f"missing: {first}", "unused: other.weight")


def test_code_of_a_system_that_is_not_known_here_is_left_to_itself(repository, api, capsys, tmp_path):
    export_model(str(repository), tmp_path / "code", self_contained=True)
    content = json.loads((tmp_path / "code" / "config.json").read_text()) | {"model_type": "tomorrow"}
    (tmp_path / "code" / "config.json").write_text(json.dumps(content))
    assert push(tmp_path / "code", api) == 0, capsys.readouterr().err


@pytest.mark.parametrize("name", ["README.md", "processor_config.json", "config.json"])
def test_incomplete_repositories_are_refused(repository, api, capsys, name):
    (repository / name).unlink()
    assert push(repository, api, "--push") == 2
    assert f"{name} is missing" in capsys.readouterr().err


def test_links_and_incomplete_code_are_refused(repository, api, capsys, tmp_path):
    code = tmp_path / "code"
    export_model(str(repository), code, self_contained=True)
    (code / "windows.py").unlink()
    assert push(code, api, "--push") == 2
    assert "needs windows.py" in capsys.readouterr().err
    (code / "modeling_gfsalnet.py").unlink()
    assert push(code, api, "--push") == 2
    assert "modeling_gfsalnet.py is missing" in capsys.readouterr().err
    (repository / "scores.json").symlink_to(repository / "config.json")
    assert push(repository, api, "--push") == 2
    assert "a link" in capsys.readouterr().err
    assert push(tmp_path / "nowhere", api) == 2
    assert "no folder" in capsys.readouterr().err
