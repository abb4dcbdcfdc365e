# SPDX-License-Identifier: Apache-2.0
"""What every model of this package must be able to do. A model's tests inherit `ModelTests` and name a tiny config."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from video_saliency.modeling_outputs import VideoSaliencyOutput
from video_saliency.windows import WindowSpec


def parts_at_depth(module: nn.Module, depth: int, name: str = "") -> list[str]:
    """Names of the modules that many steps inside, or fewer where a module has no children or tensors of its own."""
    has_tensors = any(True for _ in [*module.parameters(recurse=False), *module.buffers(recurse=False)])
    children = dict(module.named_children())
    if not depth or has_tensors or not children:
        return [name] if any(True for _ in module.parameters()) else []
    prefix = f"{name}." if name else ""
    return [part for child in children for part in parts_at_depth(children[child], depth - 1, prefix + child)]


SHAPES_OF_ANY_RESOLUTION = [(1, 1), (31, 33), (45, 70), (64, 40), (97, 20)]


class ModelTests:
    """Tests of one model class.

    A subclass sets `model_class` and `size`, and defines `tiny_config`. `inputs` may be extended, for a model with
    more inputs than frames, `sizes` narrowed, for a model of one resolution, and `num_maps` set, for a model whose
    forward does not describe each frame.
    """

    model_class: ClassVar[type[PreTrainedModel]]
    size: ClassVar[tuple[int, int]] = (32, 48)
    num_frames: ClassVar[int] = 2
    num_maps: ClassVar[int | None] = None
    sizes: ClassVar[list[tuple[int, int]]] = SHAPES_OF_ANY_RESOLUTION

    def tiny_config(self, **overrides: Any) -> PreTrainedConfig:
        raise NotImplementedError

    def model(self, seed: int = 0, **overrides: Any) -> PreTrainedModel:
        torch.manual_seed(seed)
        return self.model_class(self.tiny_config(**overrides)).eval()

    def inputs(self, batch: int = 2, size: tuple[int, int] | None = None, seed: int = 0) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shape = (batch, self.num_frames, 3, *(size or self.size))
        return {"pixel_values_videos": torch.randn(shape, generator=generator)}

    def test_whole_numbers_stand_for_fractions(self):
        config_class = self.model_class.config_class
        names = [item.name for item in dataclasses.fields(config_class) if isinstance(item.default, float)]
        assert names
        for name in names:  # the strict dataclass of a config raises no ValueError for a wrong type
            with contextlib.suppress(ValueError):
                self.tiny_config(**{name: 1})
            with contextlib.suppress(ValueError):
                self.tiny_config(**{name: 0})

    def labels(self, batch: int = 2, seed: int = 1) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        densities = torch.rand(batch, self.num_maps or self.num_frames, *self.size, generator=generator)
        return {"saliency_labels": densities, "fixation_labels": (densities > 0.95).float()}

    def test_forward_gives_a_non_negative_map_per_frame(self) -> None:
        with torch.no_grad():
            outputs = self.model()(**self.inputs())
        assert isinstance(outputs, VideoSaliencyOutput)
        assert outputs.loss is None
        assert outputs.saliency_maps.shape == (2, self.num_maps or self.num_frames, *self.size)
        assert outputs.saliency_maps.isfinite().all()
        assert (outputs.saliency_maps >= 0).all()
        assert outputs.saliency_maps.flatten(2).std(dim=-1).min() > 0, "a map is constant"

    def test_backward_reaches_every_parameter(self) -> None:
        model = self.model().train()
        loss = model(**self.inputs(), **self.labels()).loss
        loss.backward()
        assert loss.ndim == 0 and loss.isfinite()
        without = [
            name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
        ]
        assert without == []
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())

    def test_a_step_of_gradient_descent_lowers_the_loss(self) -> None:
        model = self.model().train()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        losses = []
        for _ in range(8):
            loss = model(**self.inputs(), **self.labels()).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]

    def test_same_seed_and_input_give_the_same_maps(self) -> None:
        with torch.no_grad():
            first, second = (self.model(seed=3)(**self.inputs()).saliency_maps for _ in range(2))
        assert torch.equal(first, second)

    def test_initial_weights_depend_on_the_seed(self) -> None:
        first, second = self.model(seed=0).state_dict(), self.model(seed=1).state_dict()
        assert any(not torch.equal(first[name], second[name]) for name in first)

    def test_a_saved_model_is_loaded_equal(self, tmp_path: Path) -> None:
        model = self.model()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01)  # no tensor has its initial value
        model.save_pretrained(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
        loaded, report = self.model_class.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(report.values()), report
        expected = model.state_dict()
        assert list(loaded.state_dict()) == list(expected)
        assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
        with torch.no_grad():
            assert torch.equal(loaded(**self.inputs()).saliency_maps, model(**self.inputs()).saliency_maps)

    @pytest.mark.parametrize("depth", [1, 2, 3, 9])
    def test_weights_on_disk_give_the_same_maps(self, depth: int, tmp_path: Path) -> None:
        """All parts at a depth wait on disk, and each is loaded for its own forward only."""
        model = self.model()
        model.save_pretrained(tmp_path / "model")
        offloaded = self.model_class.from_pretrained(
            tmp_path / "model",
            device_map=dict.fromkeys(parts_at_depth(model, depth), "disk"),
            offload_folder=tmp_path / "offloaded",
        )
        assert all(parameter.is_meta for parameter in offloaded.parameters())
        with torch.no_grad():
            expected, maps = (some(**self.inputs()).saliency_maps for some in (model, offloaded))
        assert torch.equal(maps, expected)

    @pytest.mark.parametrize("parity", [0, 1])
    def test_missing_weights_are_initialised(self, parity: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every second key is dropped, so that each is once missing beside neighbours that are loaded."""
        model = self.model(seed=5)
        state = model.state_dict()
        kept = {name: value + 1 for index, (name, value) in enumerate(state.items()) if index % 2 == parity}
        real_empty_like = torch.empty_like

        def poisoned(*args: Any, **kwargs: Any) -> torch.Tensor:
            value = real_empty_like(*args, **kwargs)
            return value.fill_(float("nan") if value.is_floating_point() else -999)

        def load() -> PreTrainedModel:
            torch.manual_seed(7)
            with monkeypatch.context() as patch:
                patch.setattr(torch, "empty_like", poisoned)  # what transformers fills missing weights from
                return self.model_class.from_pretrained(None, config=model.config, state_dict=dict(kept))

        first, second = load(), load()
        assert not any(tensor.is_meta for tensor in [*first.parameters(), *first.buffers()])
        for name, value in first.state_dict().items():
            assert value.isfinite().all(), f"{name} is not initialised"
            assert torch.equal(value, second.state_dict()[name]), f"{name} is initialised at random"
            if name in kept:
                assert torch.equal(value, kept[name]), f"{name} lost its loaded value"
            elif not value.is_floating_point():
                assert torch.equal(value, state[name]), f"{name} is not initialised"

    def test_can_be_built_on_the_meta_device(self) -> None:
        with torch.device("meta"):
            model = self.model_class(self.tiny_config())
        assert all(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])

    def test_a_tuple_on_request(self) -> None:
        model, inputs, labels = self.model(), self.inputs(), self.labels()
        with torch.no_grad():
            outputs = model(**inputs, **labels)
            values = model(**inputs, **labels, return_dict=False)
        assert isinstance(values, tuple)
        assert torch.equal(values[0], outputs.loss) and torch.equal(values[0], outputs[0])
        assert torch.equal(values[1 if outputs.logits is None else 2], outputs.saliency_maps)
        assert len(values) == len(outputs.to_tuple())

    def test_hidden_states_on_request(self) -> None:
        model, inputs = self.model(), self.inputs()
        with torch.no_grad():
            assert model(**inputs).hidden_states is None
            hidden_states = model(**inputs, output_hidden_states=True).hidden_states
        assert isinstance(hidden_states, tuple) and hidden_states
        assert all(hidden_state.shape[0] == 2 for hidden_state in hidden_states)

    def test_config_survives_json(self, tmp_path: Path) -> None:
        config = self.tiny_config()
        assert isinstance(config.window_spec, WindowSpec)
        assert json.loads(config.to_json_string(use_diff=False))["window"] == config.window_spec.to_dict()
        config.save_pretrained(tmp_path)
        loaded = type(config).from_pretrained(tmp_path)
        assert loaded.to_dict() == config.to_dict()
        assert loaded.window_spec == config.window_spec

    def test_a_batch_equals_its_clips(self) -> None:
        model, inputs = self.model(), self.inputs(batch=3)
        with torch.no_grad():
            together = model(**inputs).saliency_maps
            alone = [model(**{name: value[i : i + 1] for name, value in inputs.items()}) for i in range(3)]
        torch.testing.assert_close(together, torch.cat([output.saliency_maps for output in alone]))

    def test_bfloat16(self) -> None:
        model, inputs = self.model(), self.inputs()
        with torch.no_grad():
            expected = model(**inputs).saliency_maps
            outputs = model.bfloat16()(**{name: value.bfloat16() for name, value in inputs.items()}, **self.labels())
        assert outputs.saliency_maps.dtype in (torch.bfloat16, torch.float32)
        assert outputs.loss.dtype == torch.float32 and outputs.loss.isfinite()
        both = torch.stack([expected.flatten(), outputs.saliency_maps.float().flatten()])
        assert torch.corrcoef(both)[0, 1] > 0.99

    def test_activation_checkpointing_changes_nothing(self) -> None:
        results = []
        for checkpointed in (False, True):
            model = self.model().train()
            if checkpointed:
                model.activation_checkpointing_enable()
                assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
            loss = model(**self.inputs(), **self.labels()).loss
            loss.backward()
            results.append((loss, [parameter.grad for parameter in model.parameters()]))
        (loss, gradients), (checkpointed_loss, checkpointed_gradients) = results
        assert torch.equal(loss, checkpointed_loss)
        for gradient, other in zip(gradients, checkpointed_gradients, strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-7)

    def test_export_with_any_batch_size(self) -> None:
        model, inputs = self.model(), self.inputs(batch=2)
        batch = torch.export.Dim("batch", min=1, max=16)
        program = torch.export.export(
            model, (), kwargs=inputs, dynamic_shapes={name: {0: batch} for name in inputs}, strict=False
        )
        others = self.inputs(batch=3, seed=4)
        with torch.no_grad():
            exported, expected = program.module()(**others), model(**others)
        assert type(exported) is type(expected)
        torch.testing.assert_close(exported.saliency_maps, expected.saliency_maps)

    def test_any_resolution(self) -> None:
        model = self.model()
        for size in self.sizes:
            with torch.no_grad():
                maps = model(**self.inputs(batch=1, size=size)).saliency_maps
            assert maps.shape == (1, self.num_maps or self.num_frames, *size)
            assert maps.isfinite().all() and (maps >= 0).all()
