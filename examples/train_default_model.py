# SPDX-License-Identifier: Apache-2.0
"""Trains the model that ships inside the package, measures it and writes its card.

    python examples/train_default_model.py --data path/to/nus_fixations --output src/video_saliency/default_model

writes `config.json`, `model.safetensors`, `processor_config.json`, `scores.json` (everything that was measured) and
`README.md` (the model card: `model_cards/default_model.md`, filled in from `scores.json`). A killed run goes on with
`--resume` as if nothing had happened. `--leave-out SET` trains without one set and scores on all of it;
`--average MODEL ...` takes the mean of the weights of such runs in place of training; `--compare FILE ...` puts the
scores of such runs into the card, and `--measure-only` scores a finished model again.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
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
    score_slow_motion,
    score_spoiled,
    weightless_maps,
)
from video_saliency.training.still_augmentation import StillAugmentation

logger = logging.getLogger("train_default_model")

CARD_TEMPLATE = Path(__file__).parents[1] / "model_cards" / "default_model.md"
REFERENCES = {
    "(centre bias of the two other sets)": "centre_bias",
    "(spectral residual times a centred Gaussian, no training)": "weightless",
}
AUGMENTATIONS = {"plain": StillAugmentation(), "strong": StillAugmentation.strong()}


def save_model(trainer: Trainer, output: Path) -> None:
    """Writes the averaged weights, kernels in float16; the config says float32, in which the model is to run."""
    trainer.model.load_state_dict(trainer.average)
    trainer.model.config.centre_exponent = trainer.recipe.centre_exponent
    stored = {name: value.half() if value.ndim > 1 else value for name, value in trainer.average.items()}
    trainer.model.save_pretrained(output, state_dict={name: value.contiguous() for name, value in stored.items()})
    trainer.processor.save_pretrained(output)
    (output / "model.safetensors").chmod(0o644)  # safetensors makes files that only their owner can read


def measure(output: Path, train_stills: StillFixations, test_stills: StillFixations, recipe: Recipe) -> dict[str, Any]:
    """Scores of the saved model, and of the centre bias and of a map without training beside it."""
    model, processor = load_trained(output)
    model.eval()
    bias = centre_bias(train_stills, recipe.size)
    scores: dict[str, Any] = {
        "val": score_stills(predict_maps(model, processor, test_stills), test_stills),
        "val_centre_bias": score_stills([bias] * len(test_stills), test_stills),
        "val_weightless": score_stills(weightless_maps(test_stills, recipe.size), test_stills),
        "val_spoiled_nss": score_spoiled(model, processor, test_stills),
    }
    if recipe.fusion_steps:
        appearance = predict_maps(model, processor, test_stills, output="appearance_maps")
        scores["val_appearance_only"] = score_stills(appearance, test_stills)
        scores["motion"] = score_motion(model, processor, test_stills)
        scores["slow_motion"] = score_slow_motion(model, processor, test_stills)
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
    average: Sequence[Path] = (),
    compare: Sequence[Path] | None = None,
) -> list[float]:
    """Trains, saves, scores and describes the model; returns the losses of the steps that were run."""
    train_stills, test_stills = split_stills(data, leave_out)
    cache = StillCache.load(train_stills, recipe)
    checkpoints: list[Path] = [] if checkpoint is None else [checkpoint]
    options = {"checkpoint_every": checkpoint_every, "resume": resume}
    if average:
        trainer, losses = averaged_trainer(recipe, average, cache), []
        teachers, seconds = {}, (0.0, 0.0)
    else:
        trainers: list[Trainer] = []
        for seed in recipe.teacher_seeds:
            if checkpoint is not None:
                checkpoints.append(checkpoint.with_name(f"{checkpoint.name}.teacher{seed}"))
            own_file = None if checkpoint is None else checkpoints[-1]
            trainers.append(trained(Trainer(recipe.of_teacher(seed)), cache, own_file, **options)[0])
        seconds = total_seconds(trainers)  # before their weights are taken
        trainer, losses = trained(Trainer(recipe, teachers=trainers), cache, checkpoint, **options)
        teachers = score_teachers(trainer, test_stills)
    rows = compared_rows(output, compare)  # before the file that holds them is written again
    save_model(trainer, output)
    scores = {
        **measure(output, train_stills, test_stills, recipe),
        "teachers": teachers,
        "left_out": leave_out,
        "averaged": len(average),
        "recipe": asdict(recipe),
        "data": {"sha256": hash_folder(data), "train_images": len(train_stills), "val_images": len(test_stills)},
        "model": {
            "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
            "file_bytes": (output / "model.safetensors").stat().st_size,
        },
        "training": training_record(trainer, seconds),
        "compared": rows,
    }
    write_scores(output, scores)
    for file in checkpoints:
        file.unlink(missing_ok=True)
    logger.info("scores: %s", scores["val"])
    return losses


def write_scores(output: Path, scores: dict[str, Any]) -> None:
    """The file of all scores, and the card made of it."""
    (output / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    write_model_card(output, scores)


def training_record(trainer: Trainer, teacher_seconds: tuple[float, float]) -> dict[str, Any]:
    """How long it took, and on what: results are the same only with the same of all."""
    wall, cpu = ({stage: round(time[index], 1) for stage, time in trainer.seconds.items()} for index in (0, 1))
    return {
        "wall_s": {"teachers": teacher_seconds[0], **wall},
        "cpu_s": {"teachers": teacher_seconds[1], **cpu},
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def score_teachers(trainer: Trainer, stills: StillFixations) -> dict[str, dict[str, float]]:
    """What each teacher reaches by itself, by its seed."""
    return {
        str(seed): score_stills(predict_maps(teacher, trainer.processor, stills), stills)["all"]
        for seed, teacher in zip(trainer.recipe.teacher_seeds, trainer.teachers, strict=True)
    }


def averaged_trainer(recipe: Recipe, folders: Sequence[Path], cache: StillCache) -> Trainer:
    """A trainer whose result is the mean of finished appearance streams."""
    trainer = Trainer(recipe)
    trainer.take_mean([load_trained(folder)[0].state_dict() for folder in folders], cache)
    return trainer


def compared_rows(output: Path, compare: Sequence[Path] | None) -> list[dict[str, Any]]:
    """The card's rows of other runs; those that are there already if none are named."""
    if compare is not None:
        return [read_compared(path) for path in compare]
    scores = output / "scores.json"
    return json.loads(scores.read_text())["compared"] if scores.exists() else []


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
        "teachers": len(scores["recipe"]["teacher_seeds"]),
        "averaged": scores["averaged"],
        "shared_steps": scores["recipe"]["shared_steps"],
        "centre_exponent": scores["recipe"]["centre_exponent"],
        "scores": scores["val"]["all"],
        "centre_bias": scores["val_centre_bias"]["all"],
        "weightless": scores["val_weightless"]["all"],
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
        teachers=teacher_sentence(scores),
        spoiled=spoiled_table(scores),
        compared=compared_table(scores["compared"]),
        compared_in_words=compared_sentences(scores["compared"], recipe),
        speed=speed_text(output),
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
    for name in ("centre_exponent", "shared_steps"):
        if recipe[name] != defaults[name]:
            changed.append(f" --{name.replace('_', '-')} {recipe[name]}")
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
    slowest, fastest = (f"{100 * speed:g}" for speed in motion["speeds"])
    slow = ", ".join(f"{100 * float(speed):g} % {100 * won:.0f} %" for speed, won in scores["slow_motion"].items())
    return (
        f"{motion['clips']} clips were made of the validation stills: one object moves, an identical one rests above "
        f"or below it. The moving object got more of the predicted mass in "
        f"{100 * motion['mover_wins_still_camera']:.1f} % of the clips with a static camera, and in "
        f"{100 * motion['mover_wins_panning_camera']:.1f} % with a panning one, at speeds of {slowest} to {fastest} % "
        f"of the width a frame. Slower objects are missed: of clips with a static camera it got more, by speed a "
        f"frame: {slow}; half is chance.\n\n"
        f"On clips that show the middle 80 % of one photograph, the model's NSS against human fixations is "
        f"{motion['nss_still_camera']:.3f} with a static camera and {motion['nss_panning_camera']:.3f} with a panning "
        "one. (It is lower than on whole pictures because the surroundings, which hardly anyone looks at, are gone.)"
    )


def teacher_sentence(scores: dict[str, Any]) -> str:
    """What stood in for a part of the truth, and what that can do by itself."""
    share, teachers = scores["recipe"]["teacher_share"], scores["teachers"]
    if not teachers:
        return "The target is the density of the recorded fixations."
    alone = ", ".join(f"{row['nss']:.3f}" for row in teachers.values())
    return (
        f"The target is {100 * (1 - share):.0f} % the density of the recorded fixations and {100 * share:.0f} % the "
        f"mean map of {len(teachers)} teachers: networks of the same kind, trained first in the same way, with seeds "
        f"{', '.join(teachers)} and without teachers. Alone they reach NSS {alone} on the validation images."
    )


def spoiled_table(scores: dict[str, Any]) -> str:
    """NSS when the validation images are spoiled."""
    rows = [["as they are", scores["val"]["all"]["nss"]], *scores["val_spoiled_nss"].items()]
    return markdown_table(("validation images", "NSS"), rows)


def compared_table(compared: Sequence[dict[str, Any]]) -> str:
    """Runs that were trained on two sets and tested on all of the third, below what needs no such training."""
    if not compared:
        return "No run of this kind was made."
    header = ("tested on", "steps", "seed", "augmentation", "changed", "NSS", "CC", "AUC-Judd", "NSS, dark")
    rows: list[list[object]] = []
    for name in dict.fromkeys(run["left_out"] for run in compared):
        runs = [run for run in compared if run["left_out"] == name]
        label = f"{name} ({runs[0]['scores']['images']})"
        for reference, key in REFERENCES.items():
            rows.append([label, "", "", "", reference, *(runs[0][key][metric] for metric in METRICS), ""])
        for run in runs:
            dark = run["spoiled_nss"].get("a quarter of the brightness", "not measured")
            values = [run["scores"][metric] for metric in METRICS]
            rows.append([label, run["steps"], run["seed"], run["augmentation"], changes(run), *values, dark])
    return markdown_table(header, rows)


def compared_sentences(compared: Sequence[dict[str, Any]], recipe: dict[str, Any]) -> str:
    """On which sets training on the two others was worth it: made as this model was, else plain, seed 0."""
    plain = [run for run in compared if not run["config_overrides"] and not run["averaged"]]
    plain = [run for run in plain if run["augmentation"] == augmentation_name(recipe)]
    wanted = (len(recipe["teacher_seeds"]), recipe["centre_exponent"])
    runs = [run for run in plain if (run["teachers"], run["centre_exponent"]) == wanted]
    subject = "A network made as this model was"
    if not runs:
        runs = [run for run in plain if changes(run) == "nothing" and run["seed"] == 0]
        subject = "The network"
    elif wanted != (0, 0):
        subject += f" ({changes(runs[0])})"
    parts = []
    for word, is_worse in (("worse", True), ("better", False)):
        found = [run for run in runs if (run["scores"]["nss"] < run["weightless"]["nss"]) == is_worse]
        pairs = [
            f"{run['left_out']} ({run['scores']['nss']:.2f} against {run['weightless']['nss']:.2f})" for run in found
        ]
        if pairs:
            parts.append(f"{word} on {', '.join(pairs)}")
    return f"{subject} is, by NSS against the untrained map, {' and '.join(parts)}." if parts else ""


def changes(run: dict[str, Any]) -> str:
    """What a run did otherwise than the recipe for one network, in words or as fields of the config."""
    found = [json.dumps(run["config_overrides"])] if run["config_overrides"] else []
    if run["teachers"]:
        found.append(f"{run['teachers']} teachers")
    if run["centre_exponent"]:
        found.append(f"maps times the Gaussian to the power {run['centre_exponent']}")
    if run["averaged"]:
        found.append(f"mean weights of {run['averaged']} networks that part after {run['shared_steps']} steps")
    return "; ".join(found) or "nothing"


def speed_text(output: Path) -> str:
    """What `make card` measured of these weights, if it did."""
    file, weights = output / "speed.json", output / "model.safetensors"
    if (
        not file.exists()
        or json.loads(file.read_text()).get("weights_sha256") != sha256(weights.read_bytes()).hexdigest()
    ):
        return "Not measured."
    return speed_table(json.loads(file.read_text()))


def speed_table(speed: dict[str, Any]) -> str:
    """The cost of each stage, and of the whole road against the network."""
    rows = [[name, f"{1000 * row['wall_s']:.2f}", f"{1000 * row['cpu_s']:.2f}"] for name, row in speed["rows"].items()]
    table = markdown_table(("a frame of the 640x480 example clip", "wall, ms", "CPU, ms"), rows)
    against, overlays = speed["maps_against_flow_and_network"], speed["overlay_maps_per_second"]
    return (
        f"{table}\n\nMeasured by `make card` on {speed['machine']} with {speed['threads']} threads, torch "
        f"{speed['torch']}; best of {speed['repeats']} runs. Maps at source size come at {against:.2f} of the rate of "
        f"flow and network alone; overlays are drawn and encoded at {overlays:.0f} maps a second, the start of the "
        f"program and the sound not counted. A map costs {speed['network_gflop']:.2f} GFLOP for the network (a "
        f"multiply and an add are two) and at least {speed['flow_gflop']:.3f} for the flow (one for each number that "
        "it computes)."
    )


def make_parser() -> argparse.ArgumentParser:
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
    parser.add_argument(
        "--centre-exponent", type=float, default=defaults.centre_exponent, help="of the finished model's config"
    )
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size)
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default=defaults.precision)
    parser.add_argument("--augmentation", choices=sorted(AUGMENTATIONS), default=augmentation_name(asdict(defaults)))
    parser.add_argument("--threads", type=int, default=1, help="the result is the same only for the same number")
    parser.add_argument("--leave-out", metavar="SET", help="train without this set, score on all of it")
    parser.add_argument(
        "--shared-steps", type=int, default=defaults.shared_steps, help="first steps that draw as seed 0 does"
    )
    parser.add_argument(
        "--average", type=Path, nargs="+", default=(), metavar="MODEL", help="finished models whose mean to take"
    )
    parser.add_argument("--compare", type=Path, nargs="*", help="scores.json of other runs, for the card")
    parser.add_argument("--checkpoint", type=Path, default=Path("train_default_model.checkpoint.pt"))
    parser.add_argument("--checkpoint-every", type=int, default=100, metavar="STEPS")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint file, if there is one")
    parser.add_argument("--config", type=json.loads, default={}, metavar="JSON", help="fields of GFSalNetConfig")
    parser.add_argument("--card-only", action="store_true", help="write the card of a finished run again")
    parser.add_argument("--measure-only", action="store_true", help="score a finished run again, and write its card")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    if options.data is None and not options.card_only:
        parser.error("--data is needed for training and measuring")
    if options.card_only or options.measure_only:
        scores = json.loads((options.output / "scores.json").read_text())
        if options.measure_only:
            stills = split_stills(options.data, scores["left_out"])
            scores.update(measure(options.output, *stills, Recipe(**scores["recipe"])))
        scores["compared"] = compared_rows(options.output, options.compare)
        write_scores(options.output, scores)
        return
    recipe = Recipe(
        steps=options.steps,
        fusion_steps=options.fusion_steps,
        seed=options.seed,
        teacher_seeds=[] if options.average else options.teacher_seeds,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        precision=options.precision,
        augmentation=asdict(AUGMENTATIONS[options.augmentation]),
        config_overrides=options.config,
        shared_steps=options.shared_steps,
        centre_exponent=options.centre_exponent,
    )
    if options.average and recipe.fusion_steps:
        parser.error("--average is for appearance streams: add --fusion-steps 0")
    run(
        options.data,
        options.output,
        recipe,
        leave_out=options.leave_out,
        checkpoint=options.checkpoint,
        checkpoint_every=options.checkpoint_every,
        resume=options.resume,
        average=options.average,
        compare=options.compare,
    )


if __name__ == "__main__":
    main()
