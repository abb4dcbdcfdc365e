# SPDX-License-Identifier: Apache-2.0
"""DIEM, AVAD, Coutrot1, Coutrot2, ETMD and SumMe as the STAViS authors prepared them: frames, sound, maps, masks.

`video_frames/<DB>/<clip>/img_00001.jpg`, `video_audio/<DB>/<clip>/<clip>.wav`,
`annotations/<DB>/<clip>/maps/eyeMap_00001.jpg`, `annotations/<DB>/<clip>/fixMap_00001.mat`, and
`fold_lists/<DB>_list_{train,test}_{1,2,3}_fps.txt` with a line "name frames fps" for each clip.
Test lists come with the package. Training lists and frame rates are read from the fold lists where they are there;
without them all other clips are for training.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

from video_saliency.data.base import SaliencyItem
from video_saliency.data.dataset_info import DatasetInfo, Listing, SplitInfo, split_lists
from video_saliency.data.frame_files import PictureFrames
from video_saliency.data.numbered_files import natural_key, subfolders
from video_saliency.data.truth_files import MaskFiles, PictureDensities

BORJI_FRAMES = 300
RELEASE = "http://cvsp.cs.ntua.gr/research/stavis/data"
LAYOUT = (
    "video_frames/{db}/<clip>/img_00001.jpg, video_audio/{db}/<clip>/<clip>.wav, "
    "annotations/{db}/<clip>/maps/eyeMap_00001.jpg, annotations/{db}/<clip>/fixMap_00001.mat, fold_lists/"
)


@dataclass(frozen=True)
class PreparedSet:
    """One of the six sets.

    Attributes:
        name: in `DATASETS`.
        folder: its name in the release.
        frame_rate: of all its clips; `None` where they differ, and only the fold lists tell.
        key: what of a clip's name tells it from the others, so that lists match whatever else a name carries.
    """

    name: str
    folder: str
    frame_rate: Fraction | None
    key: Callable[[str], str] = str


@dataclass(frozen=True)
class ListedClip:
    """A line of a fold list."""

    name: str
    num_frames: int
    frame_rate: Fraction


def without_size(name: str) -> str:
    """A DIEM clip's name without the frame size at its end."""
    return re.sub(r"_\d+x\d+$", "", name)


def leading_number(name: str) -> str:
    """`V3` of `V3_Speech1`."""
    return name.partition("_")[0]


def read_stavis_set(prepared: PreparedSet, root: Path, split: str) -> Listing:
    """The clips of a split (`"all"`, `"train_1"`, `"test_1"` ...; DIEM: `"train"`, `"test"`, `"test_borji"`)."""
    base = next((base for base in (root, root / "data") if (base / "annotations" / prepared.folder).is_dir()), root)
    present = subfolders(base / "annotations" / prepared.folder, base / "video_frames" / prepared.folder)
    lists = _read_fold_lists(base / "fold_lists", prepared.folder)
    listed = {clip.name: clip for clips in lists.values() for clip in clips}
    names, expected, notes = _choose(prepared, split, present, lists)
    max_frames = BORJI_FRAMES if split == "test_borji" else None
    rates = {name: listed[name].frame_rate if name in listed else prepared.frame_rate for name in names}
    if None in rates.values():
        notes.append(
            f"the frame rates of {sum(rate is None for rate in rates.values())} clips are in no list: 25 is taken; "
            f"put the fold lists of the release into {base / 'fold_lists'}"
        )
    items = [_read_clip(base, prepared, split, name, rates[name], max_frames) for name in names]
    frames = {name: clip.num_frames for name, clip in listed.items() if max_frames is None}
    return Listing(items, expected, frames, notes)


def _read_clip(
    base: Path, prepared: PreparedSet, split: str, name: str, rate: Fraction | None, max_frames: int | None
) -> SaliencyItem:
    frames = base / "video_frames" / prepared.folder / name
    truth = base / "annotations" / prepared.folder / name
    audio = base / "video_audio" / prepared.folder / name / f"{name}.wav"
    return SaliencyItem(
        name,
        prepared.name,
        split,
        PictureFrames(frames, rate) if frames.is_dir() else None,
        PictureDensities(truth / "maps") if (truth / "maps").is_dir() else None,
        MaskFiles(truth) if truth.is_dir() else None,
        audio if audio.is_file() else None,
        max_frames=max_frames,
    )


def _choose(
    prepared: PreparedSet, split: str, present: list[str], lists: dict[str, list[ListedClip]]
) -> tuple[list[str], list[str], list[str]]:
    """Names of the clips of a split that are there, names that should be, and notes."""
    published = [clip.name for clip in lists.get(split, [])]
    if split == "all":
        every = {clip.name for clips in lists.values() for clip in clips}
        return present, sorted(every, key=natural_key), []
    if split.startswith("test"):
        return _choose_tested(prepared, split, present, published)
    if published:
        return [name for name in present if name in published], published, []
    fold = split.removeprefix("train")
    own = split_lists(prepared.name)
    held_out = (f"test{fold}", f"absent{fold}", "test_borji")
    keys = {prepared.key(name) for kind in held_out for name in own.get(kind, [])}
    return [name for name in present if prepared.key(name) not in keys], [], []


def _choose_tested(
    prepared: PreparedSet, split: str, present: list[str], published: list[str]
) -> tuple[list[str], list[str], list[str]]:
    wanted = {prepared.key(name): name for name in split_lists(prepared.name)[split]}
    found = {prepared.key(name): name for name in present if prepared.key(name) in wanted}
    expected = [found.get(key, name) for key, name in wanted.items()]
    is_other = bool(published) and {prepared.key(name) for name in published} != wanted.keys()
    note = f"the fold list of {split} in the folder is not the published one, which is used"
    return list(found.values()), expected, [note] if is_other else []


def _read_fold_lists(folder: Path, database: str) -> dict[str, list[ListedClip]]:
    """Lines of each list by split."""
    lists = {}
    for path in sorted(folder.glob(f"{database}_list_*_fps.txt")):
        split = path.name.removeprefix(f"{database}_list_").removesuffix("_fps.txt")
        lists[split] = [
            _parse_line(line, path) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
        ]
    return lists


def _parse_line(line: str, path: Path) -> ListedClip:
    try:
        name, num_frames, rate = line.split()
        return ListedClip(name, int(num_frames), Fraction(rate))
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{path}: {line!r} is not 'name frames fps': restore the list of the release") from error


def _info(
    prepared: PreparedSet,
    title: str,
    owners: str,
    clips: int,
    frames: int,
    folds: tuple[tuple[int, int], ...],
) -> DatasetInfo:
    splits = {"all": SplitInfo(clips, frames)}
    for number, (num_train, num_test) in enumerate(folds, start=1):
        splits |= {f"train_{number}": SplitInfo(num_train), f"test_{number}": SplitInfo(num_test)}
    return DatasetInfo(
        name=prepared.name,
        title=title,
        publisher=f"{RELEASE}/{{video_frames,video_audio,annotations}}/{prepared.folder}.tar.gz and "
        f"{RELEASE}/fold_lists.tar.gz; originally {owners}",
        layout=LAYOUT.format(db=prepared.folder),
        splits=splits,
        whole=("all",),
        read=partial(read_stavis_set, prepared),
        has_audio_files=True,
    )


DIEM_SET = PreparedSet("diem", "DIEM", Fraction("29.9997"), without_size)
COUTROT_RATE = Fraction("24.99975")

_GAZE = "http://cvsp.cs.ntua.gr/research/aveyetracking"
AVAD = _info(
    PreparedSet("avad", "AVAD", None, leading_number),
    "AVAD",
    "https://sites.google.com/site/minxiongkuo",
    45,
    9_589,
    ((30, 15), (30, 15), (30, 15)),
)
COUTROT1 = _info(
    PreparedSet("coutrot1", "Coutrot_db1", COUTROT_RATE),
    "Coutrot1",
    "http://antoinecoutrot.magix.net",
    60,
    25_192,
    ((40, 20), (40, 20), (40, 20)),
)
COUTROT2 = _info(
    PreparedSet("coutrot2", "Coutrot_db2", COUTROT_RATE),
    "Coutrot2",
    "http://antoinecoutrot.magix.net",
    15,
    16_983,
    ((10, 5), (10, 5), (10, 5)),
)
ETMD = _info(PreparedSet("etmd", "ETMD_av", COUTROT_RATE), "ETMD", _GAZE, 12, 61_668, ((8, 4), (8, 4), (8, 4)))
SUMME = _info(PreparedSet("summe", "SumMe", None), "SumMe", _GAZE, 25, 109_788, ((17, 8), (17, 7), (16, 8)))

DIEM = DatasetInfo(
    name="diem",
    title="DIEM",
    publisher=f"{RELEASE}/{{video_frames,video_audio,annotations}}/DIEM.tar.gz and {RELEASE}/fold_lists.tar.gz; three "
    "clips of test_borji are not in there (ami_ib4010_closeup, ami_ib4010_left, news_tony_blair_resignation): bring "
    "them from https://thediemproject.wordpress.com into the same layout",
    layout=LAYOUT.format(db="DIEM"),
    splits={
        "all": SplitInfo(81, 236_459),
        "train": SplitInfo(64, 209_045),
        "test": SplitInfo(17, 27_414),
        "test_borji": SplitInfo(20, 20 * BORJI_FRAMES),
    },
    whole=("all",),
    read=partial(read_stavis_set, DIEM_SET),
    has_audio_files=True,
)
