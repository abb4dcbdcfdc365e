# SPDX-License-Identifier: Apache-2.0
"""Trains the model that ships inside the package: the appearance stream of a compact GFSalNet, on still images.

    python examples/train_default_model.py --data path/to/nus_fixations --output src/video_saliency/default_model

writes `config.json`, `model.safetensors`, `processor_config.json`, `scores.json` (everything that was measured) and
`README.md` (the model card: `model_cards/default_model.md`, filled in from `scores.json`). A killed run
goes on with `--resume` as if nothing had happened.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from video_saliency.data import StillFixations, fixation_density, hash_folder
from video_saliency.metrics import auc_judd, cc, nss
from video_saliency.models.gfsalnet.configuration_gfsalnet import GFSalNetConfig
from video_saliency.models.gfsalnet.modeling_gfsalnet import GFSalNetForVideoSaliency
from video_saliency.processing_video_saliency import VideoSaliencyProcessor
from video_saliency.training.still_augmentation import augment_stills

logger = logging.getLogger("train_default_model")

# Of the two streams only the one that stills can train, with the loss KL + 0.5 (1 - CC).
CONFIG = {"streams": "appearance", "cc_loss_weight": 0.5, "nss_loss_weight": 0.0}
METRICS = ("nss", "cc", "auc_judd")

CARD_TEMPLATE = Path(__file__).parents[1] / "model_cards" / "default_model.md"


@dataclass(frozen=True)
class Recipe:
    """All that determines the result, besides the data and the versions."""

    steps: int = 2500
    seed: int = 0
    batch_size: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    warmup_steps: int = 150
    average_decay: float = 0.998
    precision: str = "bfloat16"  # of the convolutions while training
    # The truth is blurred by this share of the height: sharper than in scoring, which helps NSS.
    sigma_share: float = 1 / 32
    height: int = 144
    width: int = 192
    cache_height: int = 168  # the pictures are kept a little larger than the input, for the crops
    cache_width: int = 224
    config_overrides: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width


@dataclass
class StillCache:
    """The training pictures in memory, small and 8-bit, with densities at half the input size."""

    images: torch.Tensor  # uint8 (images, 3, cache height, cache width)
    densities: torch.Tensor  # float (images, height / 2, width / 2)

    @classmethod
    def load(cls, stills: StillFixations, recipe: Recipe) -> StillCache:
        shrink = VideoSaliencyProcessor(size={"height": recipe.cache_height, "width": recipe.cache_width})
        images = [shrink.resize_frames(stills.load_image(index)[None]) for index in range(len(stills))]
        size = (recipe.height // 2, recipe.width // 2)
        sigma = recipe.sigma_share * size[0]
        points = [stills.fixation_points(index, size) for index in range(len(stills))]
        densities = torch.stack([fixation_density(entry, size, sigma=sigma) for entry in points])
        return cls(torch.cat(images).contiguous(), densities)


class Trainer:
    """Model, optimizer and averaged weights at some step; can be written to a file and read back exactly."""

    def __init__(self, recipe: Recipe) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.processor = VideoSaliencyProcessor(size={"height": recipe.height, "width": recipe.width})
        config = GFSalNetConfig.compact(**{**CONFIG, **recipe.config_overrides})
        self.model = GFSalNetForVideoSaliency(config).to(memory_format=torch.channels_last)
        # Biases and the scales of normalisation layers are not pulled to zero.
        decayed = [parameter for parameter in self.model.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in self.model.parameters() if parameter.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=recipe.learning_rate,
        )
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.step = 0
        self.wall_s = 0.0
        self.cpu_s = 0.0

    def learning_rate(self) -> float:
        """Linear warm-up, then half a cosine down to zero."""
        recipe = self.recipe
        warm_up = min(1.0, (self.step + 1) / recipe.warmup_steps)
        return recipe.learning_rate * warm_up * 0.5 * (1 + math.cos(math.pi * self.step / recipe.steps))

    def train_step(self, cache: StillCache) -> float:
        """One update; returns the loss. Its randomness depends on seed and step alone: a resumed run agrees."""
        recipe, num_images = self.recipe, len(cache.images)
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + self.step)
        torch.manual_seed(recipe.seed * 1_000_003 + self.step)  # dropout, if the model has any
        epoch, batch = divmod(self.step, num_images // recipe.batch_size)
        order = np.random.default_rng((recipe.seed, epoch)).permutation(num_images)
        chosen = order[batch * recipe.batch_size : (batch + 1) * recipe.batch_size]
        images, densities = augment_stills(
            cache.images[chosen], cache.densities[chosen], recipe.size, generator=generator
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.model.train()
        # each picture is a clip of one frame
        frames = self.processor.normalize_frames(images).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            loss = self.model(frames[:, None], saliency_labels=densities[:, None]).loss
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self._update_average()
        return loss.item()

    def _update_average(self) -> None:
        # Early weights are forgotten quickly: the decay grows to its final value.
        decay = min(self.recipe.average_decay, (1 + self.step) / (10 + self.step))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    def save_checkpoint(self, path: Path) -> None:
        state = {
            "recipe": asdict(self.recipe),
            "step": self.step,
            "wall_s": self.wall_s,
            "cpu_s": self.cpu_s,
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        torch.save(state, partial)
        os.replace(partial, path)

    def load_checkpoint(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        if state["recipe"] != asdict(self.recipe):
            raise ValueError(f"{path} was written with other options, {state['recipe']}: repeat them or drop --resume")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = state["average"]
        self.step, self.wall_s, self.cpu_s = state["step"], state["wall_s"], state["cpu_s"]


def train(trainer: Trainer, cache: StillCache, *, checkpoint: Path | None, checkpoint_every: int) -> list[float]:
    """Runs the remaining steps; returns their losses."""
    losses = []
    while trainer.step < trainer.recipe.steps:
        started = time.perf_counter(), time.process_time()
        losses.append(trainer.train_step(cache))
        trainer.wall_s += time.perf_counter() - started[0]
        trainer.cpu_s += time.process_time() - started[1]
        if trainer.step % 50 == 0:
            logger.info("step %d: loss %.4f, %.0f s", trainer.step, np.mean(losses[-50:]), trainer.wall_s)
        if checkpoint is not None and trainer.step % checkpoint_every == 0:
            trainer.save_checkpoint(checkpoint)
    return losses


def save_model(trainer: Trainer, output: Path) -> None:
    """Writes the averaged weights, kernels in float16; the config says float32, in which the model is to run."""
    trainer.model.load_state_dict(trainer.average)
    stored = {name: value.half() if value.ndim > 1 else value for name, value in trainer.average.items()}
    trainer.model.save_pretrained(output, state_dict={name: value.contiguous() for name, value in stored.items()})
    trainer.processor.save_pretrained(output)
    (output / "model.safetensors").chmod(0o644)  # safetensors makes files that only their owner can read


@torch.no_grad()
def predict_maps(output: Path, stills: StillFixations) -> list[np.ndarray]:
    """Maps of the saved model, read back as a user would, at its input size."""
    model, loading = GFSalNetForVideoSaliency.from_pretrained(output, output_loading_info=True)
    if any(loading.values()):
        raise RuntimeError(f"{output} does not hold the weights of its own model: {loading}")
    model.eval()
    processor = VideoSaliencyProcessor.from_pretrained(output)
    maps = []
    for index in range(len(stills)):
        inputs = processor(videos=stills.load_image(index)[None], return_tensors="pt")
        maps.append(model(**inputs).saliency_maps[0, 0].numpy())
    return maps


def score_maps(maps: Sequence[np.ndarray], stills: StillFixations) -> dict[str, dict[str, float]]:
    """Mean NSS, CC and AUC-Judd over all images and over those of each set; maps are scored at their own size."""
    rows = []
    for index, saliency_map in enumerate(maps):
        points = stills.fixation_points(index, saliency_map.shape)
        density = fixation_density(points, saliency_map.shape)
        rows.append((nss(saliency_map, points), cc(saliency_map, density), auc_judd(saliency_map, points)))
    table, dataset_of_row = np.array(rows), np.array([item.dataset for item in stills.items])
    scores = {}
    for dataset in ("all", *sorted(set(dataset_of_row.tolist()))):
        chosen = table[dataset_of_row == dataset] if dataset != "all" else table
        means = np.nanmean(chosen, axis=0).tolist()
        scores[dataset] = {"images": len(chosen), **dict(zip(METRICS, means, strict=True))}
    return scores


def centre_bias(stills: StillFixations, size: tuple[int, int]) -> np.ndarray:
    """The mean density of all images: what one predicts without looking at the picture."""
    densities = [fixation_density(stills.fixation_points(index, size), size) for index in range(len(stills))]
    return torch.stack(densities).mean(dim=0).numpy()


def write_model_card(output: Path, scores: dict[str, Any]) -> None:
    """README.md of the model: every number in it comes from `scores`."""
    recipe, training, model = scores["recipe"], scores["training"], scores["model"]
    lines = ["| images | | NSS | CC | AUC-Judd |", "|---|---|---|---|---|"]
    for dataset, row in scores["val"].items():
        for label, entry in (("this model", row), ("centre bias", scores["val_centre_bias"][dataset])):
            numbers = " | ".join(f"{entry[metric]:.3f}" for metric in METRICS)
            lines.append(f"| {dataset} ({row['images']}) | {label} | {numbers} |")
    results = [
        EvalResult(
            task_type="video-saliency",
            dataset_type="nus-fixations",
            dataset_name="OSIE, Crowd and Scene, validation part",
            dataset_split="val",
            metric_type=metric,
            metric_name=name,
            metric_value=round(scores["val"]["all"][metric], 4),
        )
        for metric, name in zip(METRICS, ("NSS", "CC", "AUC-Judd"), strict=True)
    ]
    defaults = asdict(Recipe())
    options = ("steps", "seed", "batch_size", "learning_rate", "precision")
    changed = [f" --{name.replace('_', '-')} {recipe[name]}" for name in options if recipe[name] != defaults[name]]
    if recipe["config_overrides"]:
        changed.append(f" --config '{json.dumps(recipe['config_overrides'])}'")
    card_data = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        tags=["video-saliency", "saliency", "eye-tracking"],
        metrics=list(METRICS),
        model_name="video-saliency-default",
        eval_results=results,
    )
    card = ModelCard.from_template(
        card_data,
        template_path=str(CARD_TEMPLATE),
        **recipe,
        **training,
        changed_options="".join(changed),
        sigma_divisor=round(1 / recipe["sigma_share"]),
        parameters=f"{model['parameters']:,}",
        megabytes=f"{model['file_bytes'] / 1e6:.1f}",
        cpu_minutes=round(training["cpu_s"] / 60),
        wall_minutes=round(training["wall_s"] / 60),
        table="\n".join(lines),
        data_hash=scores["data"]["sha256"],
        train_images=f"{scores['data']['train_images']:,}",
        val_images=scores["data"]["val_images"],
    )
    card.save(output / "README.md")


def run(
    data: Path,
    output: Path,
    recipe: Recipe,
    *,
    checkpoint: Path | None = None,
    checkpoint_every: int = 100,
    resume: bool = False,
) -> list[float]:
    """Trains, saves, scores and describes the model; returns the losses of the steps that were run."""
    train_stills, val_stills = StillFixations(data, split="train"), StillFixations(data, split="val")
    trainer = Trainer(recipe)
    if resume and checkpoint is not None and checkpoint.exists():
        trainer.load_checkpoint(checkpoint)
        logger.info("resuming after step %d", trainer.step)
    cache = StillCache.load(train_stills, recipe)
    losses = train(trainer, cache, checkpoint=checkpoint, checkpoint_every=checkpoint_every)
    save_model(trainer, output)

    bias = centre_bias(train_stills, recipe.size)
    scores = {
        "val": score_maps(predict_maps(output, val_stills), val_stills),
        "val_centre_bias": score_maps([bias] * len(val_stills), val_stills),
        "recipe": asdict(recipe),
        "data": {"sha256": hash_folder(data), "train_images": len(train_stills), "val_images": len(val_stills)},
        "model": {
            "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
            "file_bytes": (output / "model.safetensors").stat().st_size,
        },
        "training": {
            "wall_s": round(trainer.wall_s, 1),
            "cpu_s": round(trainer.cpu_s, 1),
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }
    (output / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    write_model_card(output, scores)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    logger.info("val: %s", scores["val"])
    return losses


def main(arguments: Sequence[str] | None = None) -> None:
    defaults = Recipe()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with index.csv, fixations.npz and images/")
    parser.add_argument("--output", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size)
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default=defaults.precision)
    parser.add_argument("--threads", type=int, default=2, help="the result is the same only for the same number")
    parser.add_argument("--checkpoint", type=Path, default=Path("train_default_model.checkpoint.pt"))
    parser.add_argument("--checkpoint-every", type=int, default=100, metavar="STEPS")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint file, if there is one")
    parser.add_argument("--config", type=json.loads, default={}, metavar="JSON", help="fields of GFSalNetConfig")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    recipe = Recipe(
        steps=options.steps,
        seed=options.seed,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        precision=options.precision,
        config_overrides=options.config,
    )
    run(
        options.data,
        options.output,
        recipe,
        checkpoint=options.checkpoint,
        checkpoint_every=options.checkpoint_every,
        resume=options.resume,
    )


if __name__ == "__main__":
    main()
