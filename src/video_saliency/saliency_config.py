# SPDX-License-Identifier: Apache-2.0
"""What the configurations of all models share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedConfig

from video_saliency.windows import WindowSpec

PACKAGE = "video_saliency"
CODE_REFERENCES = ("auto_map", "custom_pipelines")


class SaliencyConfig(PreTrainedConfig):
    """A configuration that names the code files of its repository only where that code is what runs.

    A repository may carry our code, which its `config.json` then names. Where this package is installed, its classes
    are used instead and the code is not copied when the model is saved again: a config that still named the files
    would make a folder that cannot be loaded, and would ask for `trust_remote_code`. So those names are forgotten.

    Each configuration has a field `window`, which it completes with `_complete_window`.
    """

    if TYPE_CHECKING:  # a real field here would come before those of each model
        window: dict[str, Any] | None

    def __post_init__(self, **kwargs: Any) -> None:
        if type(self).__module__.split(".")[0] == PACKAGE:
            for name in CODE_REFERENCES:
                kwargs.pop(name, None)
        super().__post_init__(**kwargs)

    @property
    def window_spec(self) -> WindowSpec:
        """The window as an object."""
        return WindowSpec(**(self.window or {}))

    def _complete_window(self, **defaults: Any) -> None:
        """Fills `window` up with the model's own fields, then with those of `WindowSpec`.

        Raises:
            ValueError: for a field that `WindowSpec` does not have, or a value that it refuses.
        """
        try:
            self.window = WindowSpec(**{**defaults, **(self.window or {})}).to_dict()
        except TypeError as error:
            raise ValueError(f"window must hold fields of WindowSpec only: {error}") from error

    def _check_weights(self, *names: str) -> None:
        """Raises `ValueError` unless each of these fields is a finite number of at least 0."""
        for name in names:
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a finite number of at least 0, got {value}")


__all__ = ["SaliencyConfig"]
