# SPDX-License-Identifier: Apache-2.0
"""Makes the folder of stills with fixations on which the default model is trained, out of three public repositories.

    git clone https://github.com/NUS-VIP/predicting-human-gaze-beyond-pixels osie   # then: git checkout 4a467890
    git clone https://github.com/NUS-VIP/saliency-in-crowd crowd                    # then: git checkout 8bb0416e
    git clone https://github.com/Yanakz/Scene scene                                 # then: git checkout 2cf042b0
    pip install scipy                                                               # reads MATLAB files
    python examples/prepare_stills.py --osie osie --crowd crowd --scene scene --output stills

What is written: images/ID.jpg, fixations.npz, the LICENSE of each repository and, last of all, index.csv. A run that
was killed is simply repeated; the same input gives the same bytes with the same Pillow and numpy. The repositories
do not state the rights of the photographers: train and test with the pictures, do not publish them.

What is changed: the long side becomes 320 pixels (Lanczos; eight smaller pictures grow), but pictures of 256x256,
most of Scene, keep their size; all are stored as JPEG of quality 85. Fixations become fractions of width and height.
The pixels of OSIE and Crowd count from 1, those of Scene from 0. Fixations outside the picture, or without a number,
are dropped; nothing else is. They are numbered for each observer after that. Where a source has no durations they
are 0.

Which images: those of nus_fixations_split.csv beside this script, with their part, train or val. About a fifth of
each set is not in that list: it is kept apart as a test and was not used. `--all` takes it too, as part "unlisted".

What is assumed: this script was written without the repositories at hand and tested on small copies of what is
described here; it has not been run on the downloads. Known are the names and sizes of the pictures, and from the
folder of the default model how many fixations there are and where they lie on average: the last lines of a run
compare with that. These layouts are assumed; anything else stops with what was expected and what was found.

  pictures          The only folder that holds pictures of the listed names, or the only such one called stimuli.
  OSIE and Crowd    The only .mat file (version 7 or older) with "fix" in its name, or the only such one called
                    fixations.mat. Its variable `fixations` is a cell array or struct array, an image each, with `img`
                    (file name) and `subjects`: a cell or struct array, an observer each, with `fix_x`, `fix_y` and
                    perhaps `fix_duration` (milliseconds). An empty entry is an observer without fixations.
  Scene             A file like that, whose observers are matrices; or, where there is none, the only folder (or the
                    only one called fixations) of .mat files called like the pictures, with one variable each: a
                    matrix, or a cell array with a matrix an observer. If --scene-fixations names a folder of folders,
                    the observers of an image are in the order of the paths. The columns of a matrix are y, x and
                    perhaps the duration, in pixels of the stored picture.
"""

from __future__ import annotations

import argparse
import csv
import logging
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image

from video_saliency.atomic_files import atomic_path
from video_saliency.data.mat_files import read_variables

logger = logging.getLogger("prepare_stills")

SPLIT_LIST = Path(__file__).with_name("nus_fixations_split.csv")
UNLISTED = "unlisted"
INDEX_HEADER = "id,dataset,split,file,width,height,source_width,source_height,observers,fixations,source_file\r\n"


@dataclass(frozen=True)
class Source:
    """One of the three sets, and what its listed images amount to in the folder of the default model."""

    first_pixel: int  # the coordinate of the first pixel
    images: int
    fixations: int
    means: tuple[float, float, float]  # x, y (fractions), duration (milliseconds)


SOURCES = {
    "osie": Source(first_pixel=1, images=560, fixations=78_804, means=(0.498832, 0.469927, 213.786)),
    "crowd": Source(first_pixel=1, images=400, fixations=101_191, means=(0.504866, 0.435642, 231.670)),
    "scene": Source(first_pixel=0, images=400, fixations=35_103, means=(0.532039, 0.512614, 273.764)),
}
MEAN_TOLERANCE = (1e-4, 1e-4, 0.1)  # a shift by one pixel moves a mean by about 0.001


@dataclass(frozen=True)
class Places:
    """Where a set lies: its clone and, if they are not to be searched for, its pictures and fixations."""

    clone: Path
    pictures: Path | None = None
    fixations: Path | None = None


@dataclass(frozen=True)
class Still:
    """One image; `size` is (width, height) as stored.

    `observers` has a float32 array `(N, 3)` for each: x and y as fractions, inside the picture, and milliseconds.
    """

    id: str
    split: str
    picture: Path
    size: tuple[int, int]
    observers: list[np.ndarray]
    num_dropped: int

    @property
    def num_fixations(self) -> int:
        return sum(map(len, self.observers))


def prepare(places: Mapping[str, Places], output: Path, *, split_list: Path, take_all: bool = False) -> None:
    """Writes the folder and logs how it compares with the list and with the folder of the default model.

    Raises:
        ValueError: if a source is not as assumed, or `output` has pictures that this run does not write.
    """
    with split_list.open(newline="", encoding="utf-8") as file:
        splits = {row["id"]: row["split"] for row in csv.DictReader(file)}
    sets = {name: read_set(name, places[name], splits, take_all=take_all) for name in SOURCES if name in places}
    output.mkdir(parents=True, exist_ok=True)
    for name in sets:
        for licence in sorted(places[name].clone.glob("LICENSE*"))[:1]:
            shutil.copyfile(licence, output / f"LICENSE.{name}.txt")
    write_folder(sets, output)
    for name in sets:
        report(name, sets[name], splits)


def read_set(name: str, places: Places, splits: Mapping[str, str], *, take_all: bool) -> list[Still]:
    """The images of a set that have both a picture and fixations, by name."""
    listed = {id_.removeprefix(f"{name}_") for id_ in splits if id_.startswith(f"{name}_")}
    folder = places.pictures or find_folder(places.clone, listed, ".jpg", "stimuli", f"--{name}-pictures")
    pictures = {path.stem: path for path in list_files(folder, ".jpg") if path.parent == folder}
    place = places.fixations or find_fixations(name, places.clone, listed)
    in_folder = name == "scene" and place.is_dir()
    fixations = read_matrix_files(place) if in_folder else read_struct_file(place, name)
    found = sorted(stem for stem in pictures if stem in fixations and (take_all or stem in listed))
    if not found:
        raise ValueError(
            f"{name}: expected pictures and fixations of the same names, listed ones among them; found pictures like "
            f"{min(pictures, default='(none)')} and fixations like {min(fixations, default='(none)')}"
        )
    stills = [make_still(name, stem, splits, pictures[stem], fixations[stem]) for stem in found]
    dropped, kept = sum(still.num_dropped for still in stills), sum(still.num_fixations for still in stills)
    if dropped >= kept:
        raise ValueError(
            f"{name}: expected fixations in pixels of the stored pictures, found {dropped} of {dropped + kept} "
            "outside: are x and y swapped, or are they pixels of the screen?"
        )
    return stills


def make_still(
    name: str, stem: str, splits: Mapping[str, str], picture: Path, observers: Sequence[np.ndarray]
) -> Still:
    """An image with its fixations as fractions, without those outside."""
    try:
        with Image.open(picture) as image:
            size = image.size
    except OSError as error:
        raise ValueError(f"{picture} is no picture: fetch it again, with git lfs if it is a few lines") from error
    # float32 before the comparison: 0.99999999 is inside, but would be stored as 1
    first_pixel = SOURCES[name].first_pixel
    scaled = [((points - [first_pixel, first_pixel, 0]) / [*size, 1]).astype(np.float32) for points in observers]
    kept = [points[((points[:, :2] >= 0) & (points[:, :2] < 1)).all(axis=1)] for points in scaled]
    split = splits.get(f"{name}_{stem}", UNLISTED)
    return Still(f"{name}_{stem}", split, picture, size, kept, sum(map(len, scaled)) - sum(map(len, kept)))


def list_files(folder: Path, suffix: str) -> list[Path]:
    """The files under a folder with this suffix, sorted, without hidden ones."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: pass a clone, or a folder inside it")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() == suffix and path.is_file())
    return [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def find_folder(clone: Path, listed: set[str], suffix: str, preferred_name: str, option: str) -> Path:
    """The folder in a clone with files of the listed names."""
    folders = list(dict.fromkeys(path.parent for path in list_files(clone, suffix) if path.stem in listed))
    expected = f"a folder of files called like {min(listed)}{suffix} under {clone}"
    return only_one(folders, preferred_name, expected, option)


def find_fixations(name: str, clone: Path, listed: set[str]) -> Path:
    """The MATLAB file of all fixations, or for Scene also the folder with a file for each picture."""
    option = f"--{name}-fixations"
    files = [path for path in list_files(clone, ".mat") if "fix" in path.name.lower()]
    if name == "scene" and not files:
        return find_folder(clone, listed, ".mat", "fixations", option)
    return only_one(files, "fixations.mat", f'a .mat file with "fix" in its name under {clone}', option)


def only_one(candidates: Sequence[Path], preferred_name: str, expected: str, option: str) -> Path:
    """The only candidate, or the only one of the preferred name."""
    preferred = [path for path in candidates if path.name.lower() == preferred_name]
    if len(candidates) == 1 or len(preferred) == 1:
        return (preferred or candidates)[0]
    found = ", ".join(map(str, candidates[:10])) or "none"
    raise ValueError(f"expected {expected}, found {found}: unpack archives, or give the place with {option}")


def read_struct_file(path: Path, name: str) -> dict[str, list[np.ndarray]]:
    """The fixations of one MATLAB file for all images, by picture name: for each observer what the reader gives."""
    variables = read_mat(path)
    if "fixations" not in variables:
        raise ValueError(f"{path}: expected a variable `fixations`, found {', '.join(variables) or 'none'}")
    read_observer = observer_from_matrix if name == "scene" else observer_from_struct
    found = {}
    for i, record in enumerate(elements(variables["fixations"], f"{path}: fixations"), start=1):
        where = f"{path}: fixations, image {i}"
        text = unwrap(read_field(record, "img", where))
        if not (isinstance(text, np.ndarray) and text.dtype.kind == "U" and text.size == 1):
            raise ValueError(f"{where}, img: expected a file name, found {describe(text)}")
        stem = PureWindowsPath(text.item().strip()).stem  # takes slashes of both kinds
        if stem in found:
            raise ValueError(f"{where}: expected every image once, found {stem} again")
        observers = elements(read_field(record, "subjects", where), f"{where}, subjects")
        found[stem] = [read_observer(value, f"{where}, subject {j}") for j, value in enumerate(observers, start=1)]
    return found


def read_matrix_files(folder: Path) -> dict[str, list[np.ndarray]]:
    """The same of all MATLAB files under a folder, which are called like the pictures."""
    found: dict[str, list[np.ndarray]] = {}
    for path in list_files(folder, ".mat"):
        variables = read_mat(path)
        if len(variables) != 1:
            raise ValueError(f"{path}: expected one variable, found {', '.join(variables) or 'none'}")
        value = next(iter(variables.values()))
        observers = elements(value, str(path)) if is_cell(value) else [value]
        found.setdefault(path.stem, []).extend(
            observer_from_matrix(observer, f"{path}, observer {i}") for i, observer in enumerate(observers, start=1)
        )
    return found


def read_mat(path: Path) -> dict[str, Any]:
    """The variables of a MATLAB file of version 5 to 7 by name; cell and struct arrays are object arrays."""
    with path.open("rb") as file:
        head = file.read(10)
    if head != b"MATLAB 5.0":
        hint = "save it again with -v7" if head == b"MATLAB 7.3" else "fetch it again, with git lfs if need be"
        raise ValueError(f"{path}: expected a MATLAB file that begins with 'MATLAB 5.0', found {head!r}: {hint}")
    return read_variables(path)


def observer_from_struct(value: Any, where: str) -> np.ndarray:
    """Float64 `(N, 3)` of an observer's struct, as in OSIE and Crowd: x, y (pixels as in the source), milliseconds."""
    if isinstance(value, np.ndarray) and value.size == 0:
        return np.empty((0, 3))
    names = ["fix_x", "fix_y"]
    if "fix_duration" in getattr(value, "_fieldnames", ()):
        names.append("fix_duration")
    columns = []
    for name in names:
        numbers = unwrap(read_field(value, name, where))
        if not is_numeric(numbers) or numbers.size not in (0, max(numbers.shape)):
            raise ValueError(f"{where}, {name}: expected a row or column of numbers, found {describe(numbers)}")
        columns.append(numbers.ravel().astype(np.float64))
    if len({len(column) for column in columns}) > 1:
        lengths = ", ".join(str(len(column)) for column in columns)
        raise ValueError(f"{where}: expected {', '.join(names)} of the same length, found {lengths}")
    return np.stack([*columns, np.zeros(len(columns[0]))][:3], axis=1)


def observer_from_matrix(value: Any, where: str) -> np.ndarray:
    """The same of an observer's matrix, as in Scene."""
    value = unwrap(value)
    if isinstance(value, np.ndarray) and value.size == 0:
        return np.empty((0, 3))
    if not is_numeric(value) or value.ndim != 2 or value.shape[1] not in (2, 3):
        raise ValueError(f"{where}: expected a matrix with the columns y, x[, duration], found {describe(value)}")
    y, x, duration = [*value.astype(np.float64).T, np.zeros(len(value))][:3]
    return np.stack([x, y, duration], axis=1)


def elements(value: Any, where: str) -> list[Any]:
    """The entries of a cell or struct array in MATLAB's order."""
    if isinstance(value, np.ndarray) and value.size == 0:
        return []
    if not is_cell(value):
        raise ValueError(f"{where}: expected a cell array or struct array, found {describe(value)}")
    return [unwrap(entry) for entry in value.ravel(order="F")]


def unwrap(value: Any) -> Any:
    """What is inside of arrays of one entry: a struct in a cell comes as such an array."""
    while is_cell(value) and value.size == 1:
        value = value.item()
    return value


def read_field(record: Any, name: str, where: str) -> Any:
    if name not in getattr(record, "_fieldnames", ()):
        raise ValueError(f"{where}: expected a struct with the field `{name}`, found {describe(record)}")
    return getattr(record, name)


def is_cell(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == object  # else of numbers, of text, or a struct


def is_numeric(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "uif"


def describe(value: Any) -> str:
    if hasattr(value, "_fieldnames"):
        return f"a struct with the fields {', '.join(value._fieldnames)}"
    return f"{'a cell or struct' if is_cell(value) else f'a {value.dtype}'} array of shape {value.shape}"


def write_folder(sets: Mapping[str, Sequence[Still]], output: Path) -> None:
    """Writes the pictures, then the fixations, then the index: a folder with index.csv is finished."""
    images = output / "images"
    images.mkdir(exist_ok=True)
    stills = [still for name in sets for still in sets[name]]
    strays = {path.name for path in images.iterdir() if path.name[0] != "."} - {f"{still.id}.jpg" for still in stills}
    if strays:
        raise ValueError(
            f"{images} has {len(strays)} files that this run does not write, for instance {min(strays)}: pass an "
            "empty folder, or the sets and options of the earlier run"
        )
    (output / "index.csv").unlink(missing_ok=True)
    rows = [write_picture(still, name, images / f"{still.id}.jpg") for name in sets for still in sets[name]]
    observers = [points for still in stills for points in still.observers]
    numbers = [number for still in stills for number in range(len(still.observers))]
    lengths = [len(points) for points in observers]
    x, y, duration = np.concatenate(observers).T
    with atomic_path(output / "fixations.npz") as path:
        np.savez_compressed(
            path,
            ids=np.array([still.id for still in stills]),
            image=np.repeat(np.arange(len(stills), dtype=np.int32), [still.num_fixations for still in stills]),
            observer=np.repeat(np.array(numbers, dtype=np.uint8), lengths),
            order=np.array([number for length in lengths for number in range(length)], dtype=np.uint8),
            x=x,
            y=y,
            duration_ms=duration,
        )
    with atomic_path(output / "index.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        file.write(INDEX_HEADER)
        csv.writer(file).writerows(rows)


def write_picture(still: Still, name: str, path: Path) -> list[Any]:
    """Writes the picture in its new size; returns its line of index.csv."""
    width, height = prepared_size(still.size)
    try:
        with Image.open(still.picture) as image:
            resized = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    except OSError as error:
        raise ValueError(f"{still.picture} is damaged: fetch it again") from error
    with atomic_path(path) as temporary:
        resized.save(temporary, "JPEG", quality=85, optimize=True)
    sizes, counts = (width, height, *still.size), (len(still.observers), still.num_fixations)
    return [still.id, name, still.split, f"images/{path.name}", *sizes, *counts, still.picture.name]


def prepared_size(size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) in the folder: all 1,360 sizes in the folder of the default model follow this rule."""
    if size == (256, 256):
        return size
    width, height = (max(1, round(length * 320 / max(size))) for length in size)
    return width, height


def report(name: str, stills: Sequence[Still], splits: Mapping[str, str]) -> None:
    """Logs the counts of a set, and how they differ from the list and from the folder of the default model."""
    parts = ", ".join(f"{count} {part}" for part, count in sorted(Counter(still.split for still in stills).items()))
    kept, dropped = sum(still.num_fixations for still in stills), sum(still.num_dropped for still in stills)
    logger.info("%s: %d images (%s), %d fixations, %d more outside", name, len(stills), parts, kept, dropped)
    listed = [still for still in stills if still.split != UNLISTED]
    missing = {id_ for id_ in splits if id_.startswith(f"{name}_")} - {still.id for still in listed}
    if missing:
        logger.warning("%s: %d listed images were not found, for instance %s", name, len(missing), min(missing))
    source = SOURCES[name]
    points = np.concatenate([np.zeros((0, 3)), *(points for still in listed for points in still.observers)])
    means = points.mean(axis=0) if len(points) else np.zeros(3)
    line = "{} listed images, {} fixations, mean x {:.4f}, y {:.4f}, duration {:.1f} ms".format
    expected, found = line(source.images, source.fixations, *source.means), line(len(listed), len(points), *means)
    same_counts = (len(listed), len(points)) == (source.images, source.fixations)
    if same_counts and (np.abs(means - source.means) < MEAN_TOLERANCE).all():
        logger.info("%s: as in the folder of the default model (%s)", name, expected)
    else:
        logger.warning("%s: not as in the folder of the default model: %s; expected %s", name, found, expected)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in SOURCES:
        parser.add_argument(f"--{name}", type=Path, metavar="CLONE", help="clone of the repository")
        parser.add_argument(f"--{name}-pictures", type=Path, metavar="FOLDER", help="if it is not found")
        parser.add_argument(f"--{name}-fixations", type=Path, metavar="PLACE", help="if it is not found")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder to write")
    parser.add_argument("--all", action="store_true", help='also the images that are not in the list, as "unlisted"')
    options = vars(parser.parse_args(arguments))
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    places = {
        name: Places(options[name], options[f"{name}_pictures"], options[f"{name}_fixations"])
        for name in SOURCES
        if options[name] is not None
    }
    if not places:
        parser.error("pass at least one of --osie, --crowd and --scene")
    try:
        prepare(places, options["output"], split_list=SPLIT_LIST, take_all=options["all"])
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
