# SPDX-License-Identifier: Apache-2.0
"""A submission to the NTIRE challenge on video saliency: maps as 8-bit pictures, and as one video for each clip.

    python examples/ntire_submission.py CLIP... --model MODEL --output submission

writes, for each clip, `maps/<clip>/eyeMap_00001.png` and so on, at the model's size, the map's own scale of 0..1 times
255 with the fraction cut off; and `videos/<clip>.mp4`, H.264 at the frame rate of the clip. Both must have a picture
for each frame of the clip: this is checked. CLIP may be a folder. The maps come from floats all the way: the authors
of ViSAGE fuse the 8-bit pictures of two runs, which costs a grey level here and there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from video_saliency import VideoSaliencyPredictor
from video_saliency.loading import load_model, load_processor
from video_saliency.map_io import MapPngWriter, map_to_uint8
from video_saliency.video_io import probe, write_video

FALLBACK_FRAME_RATE = Fraction(30)  # that of the challenge's clips


def count_frames(path: Path) -> int:
    """Frames of a video, by its packets: nothing is decoded."""
    with av.open(str(path)) as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))


def submit_clip(predictor: VideoSaliencyPredictor, clip: Path, output: Path) -> int:
    """Writes pictures and video of one clip; returns the number of frames.

    Raises:
        ValueError: if pictures, video and clip do not have the same number of frames.
    """
    rate = probe(clip).frame_rate or FALLBACK_FRAME_RATE
    folder, video = output / "maps" / clip.stem, output / "videos" / f"{clip.stem}.mp4"
    folder.mkdir(parents=True, exist_ok=True)
    video.parent.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob("eyeMap_*.png"):
        leftover.unlink()
    writer = MapPngWriter(folder, "eyeMap_%05d.png", quantize="truncate", scale="unit")

    def pictures() -> Iterator[tuple[np.ndarray, Fraction]]:
        for frame in predictor.stream(clip):
            saliency_map = frame.model_map.numpy()
            writer.write(frame.frame_index, frame.time_s, saliency_map)
            grey = map_to_uint8(saliency_map, quantize="truncate", scale="unit")
            yield np.repeat(grey[..., None], 3, axis=-1), frame.frame_index / rate

    write_video(video, pictures(), frame_rate=rate)
    counts = {
        "the clip": count_frames(clip),
        "maps": len(list(folder.glob("eyeMap_*.png"))),
        "the video": count_frames(video),
    }
    if len(set(counts.values())) > 1:
        raise ValueError(f"{clip}: " + ", ".join(f"{name} {count} frames" for name, count in counts.items()))
    return counts["maps"]


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path, metavar="CLIP")
    parser.add_argument("--model", required=True, help="folder or Hub id")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    predictor = VideoSaliencyPredictor(
        load_model(options.model), load_processor(options.model), device=options.device, batch_size=1
    )
    clips = [clip for path in options.clips for clip in (sorted(path.glob("*.mp4")) if path.is_dir() else [path])]
    for clip in clips:
        print(f"{clip}: {submit_clip(predictor, clip, options.output)} frames")


if __name__ == "__main__":
    main()
