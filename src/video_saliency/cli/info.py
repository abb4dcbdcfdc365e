# SPDX-License-Identifier: Apache-2.0
"""`video-saliency info`: what a model sees, and what it costs."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Mapping
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
from video_saliency.defaults import DEFAULT_NAME, named_model
from video_saliency.loading import load_config, load_processor
from video_saliency.sharded_weights import stored_dtypes
from video_saliency.windows import WindowSpec

aten = torch.ops.aten
WEIGHT_PRODUCTS = (aten.convolution, aten._convolution, aten.addmm, aten.mm)  # convolutions and linear layers


def info(
    model: Annotated[str, typer.Argument(help=f"Folder, Hub id or '{DEFAULT_NAME}' (embedded).")] = DEFAULT_NAME,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
) -> None:
    """Tell a model's window, size, parameters, GFLOP a map, memory and device. Loads no weights."""
    with one_line_errors():
        source = named_model(model)
        config, processor = load_config(source), load_processor(source)
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
        inputs = {"pixel_values_videos": clip}
        audio = getattr(config, "audio_spec", None)
        if audio is not None:
            inputs["audio_values"] = torch.zeros(1, audio.num_slices, 1, *audio.size)
    with FlopCounterMode(display=False) as counter, PeakMemory() as activations, torch.inference_mode():
        network(**inputs)
    working = activations.peak
    maps = spec.num_frames if spec.output == "all" else 1
    weights = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    return {
        "model": f"{type(network).__name__} ({config.model_type})",
        "window": describe_window(spec, config.flow_pair if getattr(network, "flow", None) is not None else None),
        "maps": describe_maps(spec),
        "input size": f"{size['height']} x {size['width']} (height x width)",
        "parameters": f"{sum(p.numel() for p in network.parameters()):,}",
        "GFLOP a map": f"{counter.get_total_flops() / maps / 1e9:.3g} (multiply and add counted as two)",
        **describe_parts(network, counter.get_flop_counts(), maps),
        "memory": f"{weights / 2**20:.1f} MiB of weights and about {working / 2**20:.1f} MiB a window, in float32",
        "  in bfloat16": f"{half_precision_bytes(network) / 2**20:.1f} MiB of weights, with what stays in float32",
        **({"flow": describe_flow(network, size)} if getattr(network, "flow", None) is not None else {}),
        "device": device,
    }


def describe_window(spec: WindowSpec, flow_pair: str | None = None) -> str:
    """Which frames a forward sees, in words.

    Args:
        spec: of the model.
        flow_pair: `"previous"` or `"next"` for a model that computes the flow from or to this neighbour.
    """
    if spec.step_seconds is not None:
        return f"{spec.num_frames} frames, {spec.step_seconds:g} s apart"
    if spec.num_frames == 1:
        neighbour = {"previous": " and the one before it", "next": " and the one after it"}
        return "1 frame" + ("" if flow_pair is None else neighbour[flow_pair])
    return f"{spec.num_frames} frames " + ("in a row" if spec.step == 1 else f"that are {spec.step} frames apart")


def describe_maps(spec: WindowSpec) -> str:
    """Which frames of a window a forward gives maps of, and what stands in beyond the ends of a clip, in words."""
    tail = "the last one is repeated" if spec.tail_policy == "repeat" else "the window begins again"
    if spec.output == "all":
        often = "" if spec.hop_steps == spec.num_frames else f", windows start every {spec.hop_steps} of them"
        end = f"; after a clip's end {tail}" if spec.num_frames > 1 else ""
        return f"one for each frame of a window{often}{end}"
    head = "before a clip's first frame that one is repeated"
    if spec.head_policy == "reverse" and spec.output == "last":
        head = f"for a clip's first {spec.num_frames - 1} frames the window runs backwards from the frames after them"
    elif spec.head_policy == "reverse":
        head = "before a clip's first frame time is mirrored"
    end = f", after its last {tail}" if spec.output == "middle" else ""
    return f"one for each window, of its {spec.output} frame; {head}{end}"


def half_precision_bytes(network: Any) -> int:
    """Bytes of a network's weights with `dtype="bfloat16"`; the network may be on the meta device."""
    tensors = network.state_dict()
    kept = getattr(network, "_keep_in_fp32_modules_strict", None) or ()  # a model that `from_pretrained` loads has it
    dtypes = stored_dtypes(tensors, torch.bfloat16, keep_float32=kept)
    return sum(tensor.numel() * dtypes[name].itemsize for name, tensor in tensors.items())


def describe_parts(network: Any, operations: Mapping[str, Mapping[Any, int]], maps: int) -> dict[str, str]:
    """A row for each part of a network: its parameters and what it costs a map, counted in two ways.

    Papers give mostly what counters of layers find, multiplications with weights; attention's products between
    activations come on top. Norms, activations and interpolation are in neither.

    Args:
        network: the module that was run.
        operations: what `FlopCounterMode` counted in each module, twice the multiplications.
        maps: how many maps the run gave.
    """
    rows = {"part": f"{'parameters':>12} {'GMAC a map':>12} {'with attention':>16}"}
    root = type(network).__name__
    for name, part in [*network.named_children(), ("all", network)]:
        counts = operations_of(part, root if part is network else f"{root}.{name}", operations)
        with_weights = sum(count for operation, count in counts.items() if operation in WEIGHT_PRODUCTS)
        macs = [count / 2e9 / maps for count in (with_weights, counts.total())]
        parameters = sum(parameter.numel() for parameter in part.parameters())
        rows[f"  {name}"] = f"{parameters:>12,} {macs[0]:>12.4g} {macs[1]:>16.4g}"
    return {
        **rows,
        "  counted": "multiplications of convolutions and linear layers, then also those of attention as it is run",
    }


def operations_of(module: Any, name: str, operations: Mapping[str, Mapping[Any, int]]) -> Counter[Any]:
    """Operations of a module by kind; of a container that is never called, those of what it holds."""
    if name in operations:
        return Counter(operations[name])
    counts: Counter[Any] = Counter()
    for child_name, child in module.named_children():
        counts += operations_of(child, f"{name}.{child_name}", operations)
    return counts


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
