# SPDX-License-Identifier: Apache-2.0
"""The files of one predicted clip, written so that a killed run can go on and give the same bytes.

Frames are cut into segments of fixed length. While a clip is predicted everything lies in `<folder>/.partial`: each
output puts its share of a segment on disk, then `progress.json` says how many frames are done. At the end the shares
are joined into files with their final names, each by one rename. A resumed run starts behind the last whole segment.
"""

from __future__ import annotations

import json
import os
import shutil
from abc import ABC, abstractmethod
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Protocol

import numpy as np
from PIL import Image

from video_saliency.atomic_files import atomic_path
from video_saliency.map_io import MapPngWriter, MapShardWriter
from video_saliency.predictor import SILENT_MAPS, SaliencyFrame
from video_saliency.processing_video_saliency import post_process_maps
from video_saliency.reports.sound_difference import (
    SOUND_COLUMNS,
    SoundCsvWriter,
    sound_difference,
    summarize_sound,
)
from video_saliency.reports.tables import CsvWriter, frame_statistics, join_csv
from video_saliency.video_io import SegmentWriter, VideoInfo, join_segments
from video_saliency.visualization import ContactSheet, overlay

PARTIAL = ".partial"
EXTRA_MAPS = {
    "gate": "gate_maps",
    "sound": SILENT_MAPS,
}  # kinds made of another output of the model than its saliency maps


class Output(Protocol):
    """One kind of file, made from shares that lie in a working folder until the clip is done."""

    needs_frames: bool

    def add(self, frame: SaliencyFrame) -> None:
        """Take the next frame."""

    def end_segment(self) -> None:
        """Put all that was added on disk; called at segment boundaries and at the end of the clip."""

    def finish(self, folder: Path) -> Path:
        """Make the final file in `folder` from the shares; may be called again after a kill in the middle."""


class ShareOutput(ABC):
    """An output whose shares are files of their own, one for each segment, each made by a context manager."""

    needs_frames = False

    def __init__(self, work: Path) -> None:
        self.work = work
        self.writer: Any = None
        self._open = ExitStack()

    @abstractmethod
    def open_share(self, frame: SaliencyFrame) -> Any:
        """The writer of a new share that begins with this frame."""

    @abstractmethod
    def write(self, frame: SaliencyFrame) -> None:
        """Hand the frame to the open writer."""

    def add(self, frame: SaliencyFrame) -> None:
        if self.writer is None:
            self.writer = self._open.enter_context(self.open_share(frame))
        self.write(frame)

    def end_segment(self) -> None:
        self.writer = None
        self._open.close()

    def discard(self) -> None:
        """Give up what was added since the last segment boundary, as an exception would: its file goes away."""
        self.writer = None
        self._open.__exit__(RuntimeError, RuntimeError("the run broke off"), None)


class OverlayOutput(ShareOutput):
    """`overlay.mp4`: the clip under a heat map, with its sound."""

    needs_frames = True

    def __init__(self, work: Path, source: Any, info: VideoInfo) -> None:
        super().__init__(work)
        self.source, self.info = source, info
        self.sound = "none"

    def open_share(self, frame: SaliencyFrame) -> SegmentWriter:
        height, width = frame.source_size
        return SegmentWriter(
            self.work / f"overlay-{frame.frame_index:08d}.mp4",
            width,
            height,
            self.info.time_base,
            frame_rate=self.info.frame_rate,
        )

    def write(self, frame: SaliencyFrame) -> None:
        assert frame.frame is not None
        # the map is enlarged while it is drawn, on 8 bit
        height, width = frame.model_map.shape
        self.writer.write(overlay(frame.frame.to_rgb(), frame.display_map((height, width))), frame.time)

    def finish(self, folder: Path) -> Path:
        shares = sorted(self.work.glob("overlay-*.mp4"))
        self.sound = join_segments(shares, folder / "overlay.mp4", audio_from=self.source)
        return folder / "overlay.mp4"


class CsvOutput(ShareOutput):
    """`saliency.csv`: where the map of each frame peaks and how far it spreads."""

    def open_share(self, frame: SaliencyFrame) -> CsvWriter:
        return CsvWriter(self.work / f"table-{frame.frame_index:08d}.csv")

    def write(self, frame: SaliencyFrame) -> None:
        self.writer.write(frame.frame_index, frame.time_s, frame_statistics(frame.model_map, frame.source_size))

    def finish(self, folder: Path) -> Path:
        join_csv(sorted(self.work.glob("table-*.csv")), folder / "saliency.csv")
        return folder / "saliency.csv"


class SoundOutput(ShareOutput):
    """`sound.csv`: how far the map of each frame is from that without sound; `summary` has the means at the end."""

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        self.summary: dict[str, Any] | None = None

    def open_share(self, frame: SaliencyFrame) -> SoundCsvWriter:
        return SoundCsvWriter(self.work / f"sound-{frame.frame_index:08d}.csv")

    def write(self, frame: SaliencyFrame) -> None:
        difference = sound_difference(frame.model_map, frame.extra_maps[SILENT_MAPS])
        self.writer.write(frame.frame_index, frame.time_s, difference)

    def finish(self, folder: Path) -> Path:
        join_csv(sorted(self.work.glob("sound-*.csv")), folder / "sound.csv", columns=SOUND_COLUMNS)
        self.summary = summarize_sound(folder / "sound.csv")
        return folder / "sound.csv"


class GatePngWriter:
    """Writes weights in 0..1 as 8-bit pictures: 0 to 255 in every frame alike, nothing is divided by its maximum."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, frame_index: int, time_s: float, gate: np.ndarray) -> None:
        """Write the `(height, width)` gate of a frame at once; `time_s` is not kept."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.folder / f"gate_{frame_index + 1:05d}.png") as path:
            Image.fromarray(np.rint(255 * gate.clip(0, 1)).astype(np.uint8)).save(path)


class FolderOutput:
    """A folder of files that are complete one by one.

    `maps/` holds float NPZ shards, `png/` 8-bit maps (`quantize`, see `MapPngWriter`), `ntire/` 8-bit maps as for the
    NTIRE challenge (the model's own scale times 255, cut off), `gate/` the weight of appearance against motion as
    8-bit pictures: 255 is all appearance.
    """

    needs_frames = False
    writers: ClassVar[dict[str, Any]] = {
        "maps": MapShardWriter,
        "png": MapPngWriter,
        "ntire": partial(MapPngWriter, quantize="truncate", scale="unit"),
        "gate": GatePngWriter,
    }

    def __init__(self, work: Path, name: str, map_size: str, quantize: str = "round") -> None:
        self.work, self.name, self.at_source = work / name, name, map_size == "source"
        for leftover in self.work.glob(".*"):  # of a killed run
            leftover.unlink()
        self.writer = self.writers[name](self.work, **({"quantize": quantize} if name == "png" else {}))

    def add(self, frame: SaliencyFrame) -> None:
        size = frame.source_size if self.at_source else (frame.model_map.shape[0], frame.model_map.shape[1])
        if self.name in EXTRA_MAPS:
            values = post_process_maps(frame.extra_maps[EXTRA_MAPS[self.name]], size, normalize=None)
        elif self.name == "ntire":
            values = post_process_maps(frame.model_map, size, normalize=None)
        else:
            values = frame.map_at(size)
        self.writer.write(frame.frame_index, frame.time_s, values.numpy())

    def end_segment(self) -> None:
        if isinstance(self.writer, MapShardWriter):
            self.writer.flush()

    def finish(self, folder: Path) -> Path:
        final = folder / self.name
        if self.work.exists():  # else it was moved before a kill
            if final.exists():
                shutil.rmtree(final)
            os.replace(self.work, final)
        return final


class SheetOutput:
    """`sheet.png`: a contact sheet of at most 12 frames.

    Args:
        work: the working folder.
        title: written at the top.
        frames_done: frames whose sheet was saved by the run that is gone on with.
    """

    needs_frames = True

    def __init__(self, work: Path, title: str, frames_done: int) -> None:
        self.work, self.title, self.next_frame = work, title, frames_done
        self.sheet = ContactSheet()
        if frames_done:
            with np.load(self._state_of(frames_done)) as arrays:
                self.sheet.load_state_dict(dict(arrays))

    def add(self, frame: SaliencyFrame) -> None:
        self.next_frame = frame.frame_index + 1
        if self.sheet.wants(frame.frame_index):
            assert frame.frame is not None
            self.sheet.add(frame.frame_index, frame.time_s, frame.frame.to_rgb(), frame.display_map())

    def end_segment(self) -> None:
        # under a name of its own: until the progress is written, a kill goes back to the state before
        with atomic_path(self._state_of(self.next_frame)) as path:
            np.savez(path, **self.sheet.state_dict())  # type: ignore[arg-type]

    def forget_old_shares(self) -> None:
        """Remove the states before the last one, once the progress has been written."""
        for path in self.work.glob("sheet-*.npz"):
            if path != self._state_of(self.next_frame):
                path.unlink()

    def finish(self, folder: Path) -> Path:
        with atomic_path(folder / "sheet.png") as path:
            self.sheet.render(title=self.title).save(path)
        return folder / "sheet.png"

    def _state_of(self, frames_done: int) -> Path:
        return self.work / f"sheet-{frames_done:08d}.npz"


class OutputFolder:
    """Brings the outputs of one clip through segments, kills and resumes. A context manager around the prediction.

    Args:
        folder: where the final files go.
        settings: all that decides about the bytes of the outputs, JSON types. A run may only be resumed with equal
            settings.
        segment_frames: frames between points from which a run can go on.
        resume: go on with an interrupted run, if there is one.
        retry_broken: do not count a finished run as complete if its video broke off; for what comes over a network.

    Attributes:
        outputs: the outputs by kind, filled by the caller before the first frame.
        is_complete: with `resume`: an earlier run with equal settings has done everything.
        frames_done: frames whose shares are on disk; a resumed run goes on from here.
        is_predicted: all frames are done, only the final files are to be made.
        note: what went wrong in the clip, for instance that it is truncated.

    Raises:
        ValueError: if an interrupted run with other settings lies in the folder and `resume` is wished.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        *,
        segment_frames: int,
        resume: bool,
        retry_broken: bool = False,
    ) -> None:
        self.folder, self.work = folder, folder / PARTIAL
        self.settings = settings | {"segment_frames": segment_frames}
        self.segment_frames = segment_frames
        self.frames_done, self.is_predicted, self.is_complete = 0, False, False
        self.note: str | None = None
        self.outputs: dict[str, Any] = {}
        progress = _read_json(self.work / "progress.json") if resume else None
        if progress is not None:
            self._go_on_from(progress)
            return
        if resume and self._is_finished() and not (retry_broken and self.note is not None):
            self.is_complete = True
            return
        self.note = None
        self._remove_work()
        self.work.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            for output in self.outputs.values():
                if isinstance(output, ShareOutput):
                    output.discard()

    def add(self, frame: SaliencyFrame) -> None:
        """Hand a frame to all outputs, and close the segment behind its last frame."""
        for output in self.outputs.values():
            output.add(frame)
        self.frames_done = frame.frame_index + 1
        if self.frames_done % self.segment_frames == 0:
            self._end_segment()

    def finish(self) -> dict[str, Path]:
        """Make the final files and remove the working folder; returns them by kind."""
        if not self.is_predicted:
            self.is_predicted = True
            self._end_segment()
        files = {name: output.finish(self.folder) for name, output in self.outputs.items()}
        record = {
            "settings": self.settings,
            "frames": self.frames_done,
            "note": self.note,
            "files": {name: path.name for name, path in files.items()},
        }
        if isinstance(sound := self.outputs.get("sound"), SoundOutput):
            record["sound"] = sound.summary
        _write_json(self.folder / "run.json", record)
        self._remove_work()
        return files

    def _end_segment(self) -> None:
        for output in self.outputs.values():
            output.end_segment()
        state = {
            "settings": self.settings,
            "frames_done": self.frames_done,
            "is_predicted": self.is_predicted,
            "note": self.note,
        }
        _write_json(self.work / "progress.json", state)
        for output in self.outputs.values():
            if isinstance(output, SheetOutput):
                output.forget_old_shares()

    def _remove_work(self) -> None:
        """Remove the working folder, first what vouches for it: a kill in the middle must not leave half a run."""
        if self.work.exists():
            (self.work / "progress.json").unlink(missing_ok=True)
            shutil.rmtree(self.work)

    def _go_on_from(self, progress: dict[str, Any]) -> None:
        before = progress["settings"]
        different = sorted(key for key in {*before, *self.settings} if before.get(key) != self.settings.get(key))
        if different:
            raise ValueError(
                f"the interrupted run in {self.folder} had other settings ({', '.join(different)}): use the same "
                "ones, or leave out --resume to start again"
            )
        self.frames_done, self.is_predicted = progress["frames_done"], progress["is_predicted"]
        self.note = progress["note"]

    def _is_finished(self) -> bool:
        """Whether an earlier run with equal settings has made all files, and they are still there."""
        record = _read_json(self.folder / "run.json")
        if record is None or record["settings"] != self.settings:
            return False
        self.note = record["note"]
        return all((self.folder / name).exists() for name in record["files"].values())


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any] | None:
    """What `_write_json` wrote; `None` if there is no such file, or another program's."""
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    is_ours = isinstance(content, dict) and isinstance(content.get("settings"), dict) and "note" in content
    return content if is_ours else None
