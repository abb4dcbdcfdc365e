# SPDX-License-Identifier: Apache-2.0
"""Names of models that cannot be meant: told at once, without asking the Hub."""

from __future__ import annotations

import pytest

from video_saliency import loading


class Untouched:
    """An Auto class that must not be reached."""

    def __getattr__(self, name: str) -> None:
        raise AssertionError("transformers was asked")


@pytest.mark.parametrize("load", [loading.load_config, loading.load_model, loading.load_processor])
@pytest.mark.parametrize("name", ["nowhere", "file.txt"])
def test_a_name_that_is_no_folder_and_no_hub_id_is_told_before_the_hub_is_asked(load, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("no model")
    for auto_class in ("AutoConfig", "AutoModel", "AutoProcessor"):
        monkeypatch.setattr(loading, auto_class, Untouched())
    with pytest.raises(ValueError, match=f"no folder '{name}' here, and a Hub id has the form ORG/NAME"):
        load(name)


def test_a_folder_beside_the_user_needs_no_slash(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no config.json"):
        loading.load_config("empty")
