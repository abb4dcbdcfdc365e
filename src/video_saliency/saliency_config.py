# SPDX-License-Identifier: Apache-2.0
"""What the configurations of all models share."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

PACKAGE = "video_saliency"
CODE_REFERENCES = ("auto_map", "custom_pipelines")


class SaliencyConfig(PreTrainedConfig):
    """A configuration that names the code files of its repository only where that code is what runs.

    A repository may carry our code, which its `config.json` then names. Where this package is installed, its classes
    are used instead and the code is not copied when the model is saved again: a config that still named the files
    would make a folder that cannot be loaded, and would ask for `trust_remote_code`. So those names are forgotten.
    """

    def __post_init__(self, **kwargs: Any) -> None:
        if type(self).__module__.split(".")[0] == PACKAGE:
            for name in CODE_REFERENCES:
                kwargs.pop(name, None)
        super().__post_init__(**kwargs)


__all__ = ["SaliencyConfig"]
