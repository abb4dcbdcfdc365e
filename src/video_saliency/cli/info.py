# SPDX-License-Identifier: Apache-2.0
"""`video-saliency info`: what a model sees, and what it costs."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel

from video_saliency.cli.devices import pick_device
from video_saliency.cli.errors import one_line_errors
from video_saliency.defaults import DEFAULT_MODEL
from video_saliency.loading import load_config, load_processor


def info(
    model: Annotated[str, typer.Argument(help="Folder or Hub id. Default: the embedded model.")] = DEFAULT_MODEL,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
) -> None:
    """Tell a model's window, size, parameters, GFLOP a map, memory and device. Loads no weights."""
    with one_line_errors():
        config = load_config(model)
        processor = load_processor(model)
        table = Table(show_header=False, box=None, title=model, title_justify="left")
        for name, value in describe(config, processor.size, str(pick_device(device))).items():
            table.add_row(name, value)
        Console().print(table)


def describe(
    config: Any, size: dict[str, int], device: str, make_model: Callable[[Any], Any] = AutoModel.from_config
) -> dict[str, str]:
    """The rows of the table, computed on the meta device: shapes only, no memory, no weights."""
    spec = config.window_spec
    with torch.device("meta"):
        network = make_model(config).eval()
        clip = torch.zeros(1, spec.num_frames, 3, size["height"], size["width"])
    with FlopCounterMode(display=False) as counter, PeakMemory() as activations, torch.inference_mode():
        network(pixel_values_videos=clip)
    working = activations.peak
    maps = spec.num_frames if spec.output == "all" else 1
    weights = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    step = f"{spec.step_seconds} s" if spec.step_seconds is not None else f"{spec.step} frame(s)"
    return {
        "model": f"{type(network).__name__} ({config.model_type})",
        "window": f"{spec.num_frames} frame(s), step {step}, hop {spec.hop_steps} step(s)",
        "describes": f"{spec.output} frame(s) of a window; head {spec.head_policy}, tail {spec.tail_policy}",
        "input size": f"{size['height']} x {size['width']} (height x width)",
        "parameters": f"{sum(p.numel() for p in network.parameters()):,}",
        "GFLOP a map": f"{counter.get_total_flops() / maps / 1e9:.3g} (multiply and add counted as two)",
        "memory": f"{weights / 2**20:.1f} MiB of weights and about {working / 2**20:.1f} MiB a window, in float32",
        **({"flow": describe_flow(network, size)} if getattr(network, "flow", None) is not None else {}),
        "device": device,
    }


def describe_flow(network: Any, size: dict[str, int]) -> str:
    """The flow backend of a network on the meta device, and what it costs a map."""
    config = network.config
    camera = "the camera's motion removed" if config.flow_remove_camera else "with the camera's motion"
    gflop = flow_operations(network, size) / 1e9
    cost = "not counted, it is OpenCV's" if config.flow_backend == "dis" else f"{gflop:.2g} GFLOP a map on top"
    return f"{config.flow_backend}, {camera}; {cost}"


def flow_operations(network: Any, size: dict[str, int]) -> int:
    """Operations of one frame's flow: those of matrix products, and one for each number that another step makes."""
    with torch.device("meta"):
        frames = torch.zeros(1, 3, size["height"], size["width"])
    with FlopCounterMode(display=False) as products, ElementCount() as others, torch.inference_mode():
        encoded = network.encode_for_flow(frames)
        network.flow_values_between(encoded, encoded, (size["height"], size["width"]))
    return int(products.get_total_flops()) + others.count


class ElementCount(TorchDispatchMode):
    """Numbers made in its context by operations that are no views: a lower bound of the arithmetic in them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.count += sum(tensor.numel() for tensor in tree_leaves(results) if isinstance(tensor, torch.Tensor))
        return results


class PeakMemory(TorchDispatchMode):
    """Bytes of all tensors made in its context that were alive at the same time, at most: an estimate of the working
    memory of a forward, without what an allocator or a convolution takes for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.current = self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(results):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return results

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:  # a view of a tensor that is counted
            return
        self._alive.add(key)
        self.current += size
        self.peak = max(self.peak, self.current)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.current -= size
