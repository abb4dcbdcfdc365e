# SPDX-License-Identifier: Apache-2.0
"""Trains the model that ships inside the package, measures it and writes its card.

    python examples/train_default_model.py --data path/to/nus_fixations --output src/video_saliency/default_model

writes `config.json`, `model.safetensors`, `processor_config.json`, `scores.json` (everything that was measured) and
`README.md` (the model card: `model_cards/default_model.md`, filled in from `scores.json`). A killed run goes on with
`--resume` as if nothing had happened. `--leave-out SET` trains without one set and scores on all of it;
`--compare FILE ...` puts the scores of such runs into the card.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from video_saliency.data import StillFixations, hash_folder
from video_saliency.scoring import score_stills
from video_saliency.training.default_model import Recipe, StillCache, Trainer
from video_saliency.training.default_scores import (
    METRICS,
    centre_bias,
    load_trained,
    predict_maps,
    score_motion,
    score_spoiled,
)
from video_saliency.training.still_augmentation import StillAugmentation

logger = logging.getLogger("train_default_model")

CARD_TEMPLATE = Path(__file__).parents[1] / "model_cards" / "default_model.md"
AUGMENTATIONS = {"plain": StillAugmentation(), "strong": StillAugmentation.strong()}


def save_model(trainer: Trainer, output: Path) -> None:
    """Writes the averaged weights, kernels in float16; the config says float32, in which the model is to run."""
    trainer.model.load_state_dict(trainer.average)
    stored = {name: value.half() if value.ndim > 1 else value for name, value in trainer.average.items()}
    trainer.model.save_pretrained(output, state_dict={name: value.contiguous() for name, value in stored.items()})
    trainer.processor.save_pretrained(output)
    (output / "model.safetensors").chmod(0o644)  # safetensors makes files that only their owner can read


def measure(output: Path, train_stills: StillFixations, test_stills: StillFixations, recipe: Recipe) -> dict[str, Any]:
    """Scores of the saved model, and of the centre bias beside it."""
    model, processor = load_trained(output)
    model.eval()
    bias = centre_bias(train_stills, recipe.size)
    scores: dict[str, Any] = {
        "val": score_stills(predict_maps(model, processor, test_stills), test_stills),
        "val_centre_bias": score_stills([bias] * len(test_stills), test_stills),
        "val_spoiled_nss": score_spoiled(model, processor, test_stills),
    }
    if recipe.fusion_steps:
        appearance = predict_maps(model, processor, test_stills, output="appearance_maps")
        scores["val_appearance_only"] = score_stills(appearance, test_stills)
        scores["motion"] = score_motion(model, processor, test_stills)
    return scores


def run(
    data: Path,
    output: Path,
    recipe: Recipe,
    *,
    leave_out: str | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: int = 100,
    resume: bool = False,
    compare: Sequence[Path] = (),
) -> list[float]:
    """Trains, saves, scores and describes the model; returns the losses of the steps that were run."""
    train_stills, test_stills = split_stills(data, leave_out)
    cache = StillCache.load(train_stills, recipe)
    teachers: list[Trainer] = []
    checkpoints: list[Path] = [] if checkpoint is None else [checkpoint]
    options = {"checkpoint_every": checkpoint_every, "resume": resume}
    for seed in recipe.teacher_seeds:
        if checkpoint is not None:
            checkpoints.append(checkpoint.with_name(f"{checkpoint.name}.teacher{seed}"))
        own_file = None if checkpoint is None else checkpoints[-1]
        teachers.append(trained(Trainer(recipe.of_teacher(seed)), cache, own_file, **options)[0])
    seconds = total_seconds(teachers)  # before their weights are taken
    trainer, losses = trained(Trainer(recipe, teachers=teachers), cache, checkpoint, **options)
    save_model(trainer, output)
    scores = {
        **measure(output, train_stills, test_stills, recipe),
        "left_out": leave_out,
        "recipe": asdict(recipe),
        "data": {"sha256": hash_folder(data), "train_images": len(train_stills), "val_images": len(test_stills)},
        "model": {
            "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
            "file_bytes": (output / "model.safetensors").stat().st_size,
        },
        "training": {
            "wall_s": {
                "teachers": seconds[0],
                **{stage: round(time[0], 1) for stage, time in trainer.seconds.items()},
            },
            "cpu_s": {"teachers": seconds[1], **{stage: round(time[1], 1) for stage, time in trainer.seconds.items()}},
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }
    scores["compared"] = [read_compared(path) for path in compare]
    (output / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    write_model_card(output, scores)
    for file in checkpoints:
        file.unlink(missing_ok=True)
    logger.info("scores: %s", scores["val"])
    return losses


def trained(
    trainer: Trainer, cache: StillCache, checkpoint: Path | None, *, checkpoint_every: int, resume: bool
) -> tuple[Trainer, list[float]]:
    """The trainer after its last step, and the losses of the steps that were run."""
    if resume and checkpoint is not None and checkpoint.exists():
        trainer.load_checkpoint(checkpoint)
        logger.info("seed %d: resuming after %s step %d", trainer.recipe.seed, trainer.stage, trainer.step)
    losses = trainer.train(cache, checkpoint=checkpoint, checkpoint_every=checkpoint_every)
    if checkpoint is not None:
        trainer.save_checkpoint(checkpoint)  # a run that is killed later does not repeat it
    return trainer, losses


def total_seconds(trainers: Sequence[Trainer]) -> tuple[float, float]:
    """Wall and CPU seconds of all of them."""
    spent = [seconds for trainer in trainers for seconds in trainer.seconds.values()]
    return round(sum(wall for wall, _ in spent), 1), round(sum(cpu for _, cpu in spent), 1)


def split_stills(data: Path, leave_out: str | None) -> tuple[StillFixations, StillFixations]:
    """Training and test images: the folder's own parts, or two sets against all of the third."""
    if leave_out is None:
        return StillFixations(data, split="train"), StillFixations(data, split="val")
    sets = sorted({item.dataset for item in StillFixations(data).items})
    if leave_out not in sets:
        raise ValueError(f"--leave-out must name one of {', '.join(sets)}; got {leave_out!r}")
    others = [name for name in sets if name != leave_out]
    return StillFixations(data, split="train", datasets=others), StillFixations(data, datasets=[leave_out])


def read_compared(path: Path) -> dict[str, Any]:
    """What the card shows of another run's `scores.json`."""
    scores = json.loads(path.read_text())
    return {
        "left_out": scores["left_out"],
        "steps": scores["recipe"]["steps"],
        "seed": scores["recipe"]["seed"],
        "augmentation": augmentation_name(scores["recipe"]),
        "config_overrides": scores["recipe"]["config_overrides"],
        "teachers": len(scores["recipe"].get("teacher_seeds", [])),
        "note": scores.get("note"),
        "scores": scores["val"]["all"],
        "centre_bias": scores["val_centre_bias"]["all"],
        "spoiled_nss": scores["val_spoiled_nss"],
    }


def augmentation_name(recipe: dict[str, Any]) -> str:
    """`plain`, `strong` or `other`."""
    return next((name for name, value in AUGMENTATIONS.items() if asdict(value) == recipe["augmentation"]), "other")


def write_model_card(output: Path, scores: dict[str, Any]) -> None:
    """README.md of the model: every number in it comes from `scores`, or from `speed.json` in the same folder."""
    recipe, training, model = scores["recipe"], scores["training"], scores["model"]
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
    card_data = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        tags=["video-saliency", "saliency", "eye-tracking"],
        metrics=list(METRICS),
        model_name="video-saliency-default",
        eval_results=results,
    )
    speed = output / "speed.json"
    card = ModelCard.from_template(
        card_data,
        template_path=str(CARD_TEMPLATE),
        **{key: value for key, value in recipe.items() if key not in ("motion", "augmentation")},
        motion_settings=recipe["motion"],
        **{key: value for key, value in training.items() if not isinstance(value, dict)},
        changed_options=changed_options(recipe),
        sigma_divisor=round(1 / recipe["sigma_share"]),
        parameters=f"{model['parameters']:,}",
        megabytes=f"{model['file_bytes'] / 1e6:.1f}",
        cpu_minutes=round(sum(training["cpu_s"].values()) / 60),
        wall_minutes=round(sum(training["wall_s"].values()) / 60),
        table=score_table(scores),
        motion=motion_sentences(scores),
        teachers=teacher_sentence(recipe),
        spoiled=spoiled_table(scores),
        compared=compared_table(scores["compared"]),
        speed=speed_table(json.loads(speed.read_text())) if speed.exists() else "Not measured.",
        data_hash=scores["data"]["sha256"],
        train_images=f"{scores['data']['train_images']:,}",
        val_images=scores["data"]["val_images"],
    )
    card.save(output / "README.md")


def changed_options(recipe: dict[str, Any]) -> str:
    """The options of the command line that repeat this recipe, as far as they are not the default."""
    defaults = asdict(Recipe())
    options = ("steps", "fusion_steps", "seed", "batch_size", "learning_rate", "precision")
    changed = [f" --{name.replace('_', '-')} {recipe[name]}" for name in options if recipe[name] != defaults[name]]
    if recipe["augmentation"] != defaults["augmentation"]:
        changed.append(f" --augmentation {augmentation_name(recipe)}")
    if recipe.get("teacher_seeds", []) != defaults["teacher_seeds"]:
        changed.append(f" --teacher-seeds {' '.join(map(str, recipe['teacher_seeds']))}")
    if recipe["config_overrides"]:
        changed.append(f" --config '{json.dumps(recipe['config_overrides'])}'")
    return "".join(changed)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; floats with three decimals."""
    lines = [[format(cell, ".3f") if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *lines))


def score_table(scores: dict[str, Any]) -> str:
    """Scores of the model, of its appearance stream and of the centre bias, over all images and for each set."""
    rows = []
    for dataset, row in scores["val"].items():
        for label, key in (
            ("this model", "val"),
            ("its appearance stream alone", "val_appearance_only"),
            ("centre bias", "val_centre_bias"),
        ):
            if key in scores:
                name = f"{dataset} ({row['images']})"
                rows.append([name, label, *(scores[key][dataset][metric] for metric in METRICS)])
    return markdown_table(("images", "", "NSS", "CC", "AUC-Judd"), rows)


def motion_sentences(scores: dict[str, Any]) -> str:
    """How the model did on clips made of stills."""
    motion = scores.get("motion")
    if motion is None:
        return "This model has no motion stream."
    return (
        f"On {motion['clips']} clips made of the validation stills, a moving cut-out got more of the predicted mass "
        f"than the same cut-out at rest above or below it in {100 * motion['mover_wins_still_camera']:.1f} % with a "
        f"still and {100 * motion['mover_wins_panning_camera']:.1f} % with a panning camera. Human NSS on clips of "
        f"one still: {motion['nss_still_camera']:.3f} with a still, {motion['nss_panning_camera']:.3f} with a panning "
        "camera."
    )


def teacher_sentence(recipe: dict[str, Any]) -> str:
    """What stood in for a part of the truth."""
    seeds = recipe.get("teacher_seeds", [])
    if not seeds:
        return "The truth is that of the recorded fixations alone."
    return (
        f"{100 * recipe['teacher_share']:.0f} % of the truth are the mean map of {len(seeds)} teachers: streams of "
        f"the same kind, trained before in the same way with seeds {', '.join(map(str, seeds))} and no teachers."
    )


def spoiled_table(scores: dict[str, Any]) -> str:
    """NSS when the validation images are spoiled."""
    rows = [["as they are", scores["val"]["all"]["nss"]], *scores["val_spoiled_nss"].items()]
    return markdown_table(("validation images", "NSS"), rows)


def compared_table(compared: Sequence[dict[str, Any]]) -> str:
    """Runs that were trained on two sets and tested on all of the third."""
    if not compared:
        return "No run of this kind was made."
    header = (
        "tested on",
        "steps",
        "seed",
        "augmentation",
        "changed",
        "NSS",
        "CC",
        "AUC-Judd",
        "NSS, dark",
        "centre bias",
    )
    rows = [
        [
            run["left_out"],
            run["steps"],
            run.get("seed", 0),
            run["augmentation"],
            changes(run),
            *(run["scores"][metric] for metric in METRICS),
            run["spoiled_nss"].get("a quarter of the brightness", "not measured"),
            run["centre_bias"]["nss"],
        ]
        for run in compared
    ]
    return markdown_table(header, rows)


def changes(run: dict[str, Any]) -> str:
    """What a run did otherwise than the recipe for one network, in words or as fields of the config."""
    found = [json.dumps(run["config_overrides"])] if run["config_overrides"] else []
    if run.get("teachers"):
        found.append(f"{run['teachers']} teachers")
    if run.get("note"):
        found.append(run["note"])
    return "; ".join(found) or "nothing"


def speed_table(speed: dict[str, Any]) -> str:
    """What `make bench` measured: the cost of each stage, and of the whole road against the network."""
    rows = [[name, f"{1000 * row['wall_s']:.2f}", f"{1000 * row['cpu_s']:.2f}"] for name, row in speed["rows"].items()]
    table = markdown_table(("a frame of the 640x480 example clip", "wall, ms", "CPU, ms"), rows)
    against, overlays = speed["maps_against_flow_and_network"], speed["overlay_maps_per_second"]
    return (
        f"{table}\n\nMeasured by `make bench` on {speed['machine']} with {speed['threads']} threads, torch "
        f"{speed['torch']}; best of {speed['repeats']} runs. Maps at source size come at {against:.2f} of the rate of "
        f"flow and network alone; `--save overlay` runs at {overlays:.0f} maps a second. A map costs "
        f"{speed['network_gflop']:.2f} GFLOP for the network and {speed['flow_gflop']:.3f} for the flow (a multiply "
        "and an add are two)."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    defaults = Recipe()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with index.csv, fixations.npz and images/")
    parser.add_argument("--output", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--steps", type=int, default=defaults.steps, help="of the appearance stream")
    parser.add_argument("--fusion-steps", type=int, default=defaults.fusion_steps, help="0: no motion stream")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument(
        "--teacher-seeds", type=int, nargs="*", default=defaults.teacher_seeds, help="train these first; they teach"
    )
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size)
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default=defaults.precision)
    parser.add_argument("--augmentation", choices=sorted(AUGMENTATIONS), default=augmentation_name(asdict(defaults)))
    parser.add_argument("--threads", type=int, default=1, help="the result is the same only for the same number")
    parser.add_argument("--leave-out", metavar="SET", help="train without this set, score on all of it")
    parser.add_argument("--compare", type=Path, nargs="*", default=(), help="scores.json of other runs, for the card")
    parser.add_argument("--checkpoint", type=Path, default=Path("train_default_model.checkpoint.pt"))
    parser.add_argument("--checkpoint-every", type=int, default=100, metavar="STEPS")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint file, if there is one")
    parser.add_argument("--config", type=json.loads, default={}, metavar="JSON", help="fields of GFSalNetConfig")
    parser.add_argument("--card-only", action="store_true", help="write the card of a finished run again")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    if options.card_only:
        scores = json.loads((options.output / "scores.json").read_text())
        if options.compare:
            scores["compared"] = [read_compared(path) for path in options.compare]
            (options.output / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
        write_model_card(options.output, scores)
        return
    if options.data is None:
        parser.error("--data is needed for training")
    recipe = Recipe(
        steps=options.steps,
        fusion_steps=options.fusion_steps,
        seed=options.seed,
        teacher_seeds=options.teacher_seeds,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        precision=options.precision,
        augmentation=asdict(AUGMENTATIONS[options.augmentation]),
        config_overrides=options.config,
    )
    run(
        options.data,
        options.output,
        recipe,
        leave_out=options.leave_out,
        checkpoint=options.checkpoint,
        checkpoint_every=options.checkpoint_every,
        resume=options.resume,
        compare=options.compare,
    )


if __name__ == "__main__":
    main()
