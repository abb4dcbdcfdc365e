# SPDX-License-Identifier: Apache-2.0
"""Reading videos: times, orientation, colours, odd files, and errors that say what to do."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import av
import numpy as np
import pytest
from PIL import Image
from video_factory import cut_file, damage_packets, make_clip, sample_picture

from video_saliency import video_container
from video_saliency.video_io import TruncatedVideoError, VideoError, probe, read_frames


def close(picture, expected, tolerance=6.0) -> bool:
    """Equal up to what coding with half the colour resolution does."""
    return picture.shape == expected.shape and np.abs(picture.astype(float) - expected).mean() < tolerance


def read_until_break(path):
    frames = []
    with pytest.raises(TruncatedVideoError) as error:
        for frame in read_frames(path):
            frames.append(frame)
    return frames, str(error.value)


# --- what is in a clip ---------------------------------------------------------------------------------------------


def test_probe_and_frames(tmp_path):
    path = make_clip(tmp_path / "clip.mp4", audio="aac")
    info = probe(path)
    assert (info.width, info.height, info.rotation) == (64, 48, 0)
    assert (info.frame_rate, info.num_frames, info.duration_s) == (25, 12, 0.48)
    assert (info.codec, info.pixel_format) == ("h264", "yuv420p")
    assert (info.has_audio, info.audio_codec, info.audio_sampling_rate) == (True, "aac", 44_100)
    assert info.time_base == Fraction(1, 90_000)
    frames = list(read_frames(str(path)))
    assert [frame.index for frame in frames] == list(range(12))
    assert [frame.time for frame in frames] == [Fraction(index, 25) for index in range(12)]
    assert all(close(frame.to_rgb(), sample_picture(frame.index)) for frame in frames)
    assert frames[0].nbytes >= 64 * 48 * 3 // 2
    assert frames[0].to_rgb().flags.c_contiguous


VARIABLE = [Fraction(n, 1000) for n in (0, 40, 50, 170, 171, 400, 433)]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("start", [0, Fraction(5, 2)])
def test_variable_rate_keeps_every_time_stamp(tmp_path, suffix, start):
    path = make_clip(tmp_path / f"clip{suffix}", times=VARIABLE, time_base=Fraction(1, 1000), start=start)
    assert [frame.time for frame in read_frames(path)] == VARIABLE


@pytest.mark.parametrize(
    "rate", [24, 25, 30, 60, Fraction(25, 2), Fraction(24_000, 1001), Fraction(30_000, 1001), Fraction(60_000, 1001)]
)
def test_constant_rates_are_exact(tmp_path, rate):
    path = make_clip(tmp_path / "clip.mp4", rate=rate, time_base=1 / Fraction(rate))
    assert [frame.time for frame in read_frames(path)] == [index / Fraction(rate) for index in range(12)]
    assert probe(path).frame_rate == rate


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("one_frame.mp4", {"num_frames": 1}),
        ("one_frame.mkv", {"num_frames": 1}),
        ("short_with_long_sound.mp4", {"num_frames": 3, "audio": "aac", "audio_duration": Fraction(1)}),
        ("short_with_long_sound.mkv", {"num_frames": 3, "audio": "aac", "audio_duration": Fraction(1)}),
        ("b_frames.mp4", {"num_frames": 30, "codec_options": {"preset": "medium"}}),
        ("no_cues.mkv", {"muxer_options": {"live": "1"}}),
        ("fragments.mp4", {"num_frames": 30, "muxer_options": {"movflags": "frag_keyframe+empty_moov"}}),
        ("faststart.mp4", {"muxer_options": {"movflags": "faststart"}}),
        ("transport.ts", {"audio": "aac"}),
        ("old.avi", {"codec": "mpeg4", "time_base": Fraction(1, 25)}),
        ("vp9.webm", {"codec": "libvpx-vp9", "codec_options": {"cpu-used": "8", "deadline": "realtime"}}),
        (
            "vp8.webm",
            {"num_frames": 40, "codec": "libvpx", "codec_options": {"auto-alt-ref": "1", "lag-in-frames": "9"}},
        ),
        ("lossless.mkv", {"codec": "ffv1"}),
    ],
)
def test_whole_files_raise_no_alarm(tmp_path, name, options, caplog):
    path = make_clip(tmp_path / name, **options)
    with caplog.at_level(logging.WARNING):
        frames = list(read_frames(path))
    assert len(frames) == options.get("num_frames", 12)
    assert caplog.records == []
    times = [frame.time for frame in frames]
    assert times[0] == 0 and all(a < b for a, b in zip(times, times[1:], strict=False))
    assert close(frames[-1].to_rgb(), sample_picture(len(frames) - 1), 12)


@pytest.mark.parametrize(
    ("width", "height", "pixel_format"), [(63, 47, "yuv444p"), (65, 33, "yuv420p"), (33, 65, "yuv422p10le")]
)
def test_odd_sizes(tmp_path, width, height, pixel_format):
    path = make_clip(tmp_path / "clip.mkv", 2, width=width, height=height, codec="ffv1", pixel_format=pixel_format)
    info = probe(path)
    assert (info.width, info.height, info.has_audio, info.audio_codec) == (width, height, False, None)
    for frame in read_frames(path):
        assert close(frame.to_rgb(), sample_picture(frame.index, width, height), 14)  # noise loses its colour


# --- orientation and colour ----------------------------------------------------------------------------------------


# (counter-clockwise display rotation, mirrored) -> (info.rotation, what numpy does to the stored picture)
ORIENTATIONS = {
    (None, False): (0, lambda rgb: rgb),
    (90, False): (270, lambda rgb: np.rot90(rgb, 1)),
    (-90, False): (90, lambda rgb: np.rot90(rgb, -1)),
    (180, False): (180, lambda rgb: np.rot90(rgb, 2)),
    (-180, False): (180, lambda rgb: np.rot90(rgb, 2)),
    (0, True): (0, lambda rgb: rgb[:, ::-1]),
    (180, True): (180, lambda rgb: rgb[::-1]),
}


@pytest.mark.parametrize(("rotation", "mirrored"), ORIENTATIONS)
def test_rotation_is_honoured(tmp_path, rotation, mirrored):
    path = make_clip(tmp_path / "clip.mp4", 3, rotation=rotation, mirrored=mirrored)
    degrees, turn = ORIENTATIONS[rotation, mirrored]
    info = probe(path)
    assert info.rotation == degrees
    for frame in read_frames(path):
        expected = turn(sample_picture(frame.index))
        assert close(frame.to_rgb(), expected)
        assert (info.height, info.width) == expected.shape[:2]


@pytest.mark.parametrize(("rotation", "corner"), [(-90, "right"), (90, "left")])
def test_a_mark_at_the_top_left_goes_to_the_right_corner(tmp_path, rotation, corner):
    # a phone held upright stores a lying picture, to be turned clockwise by 90 degrees (-90 counter-clockwise)
    stored = np.zeros((48, 64, 3), np.uint8)
    stored[:16, :16] = 255
    path = make_clip(tmp_path / "clip.mp4", 1, rotation=rotation, pictures=[stored])
    (frame,) = read_frames(path)
    rgb = frame.to_rgb()
    assert rgb.shape == (64, 48, 3)
    rows, columns = (slice(0, 16), slice(32, 48)) if corner == "right" else (slice(48, 64), slice(0, 16))
    assert rgb[rows, columns].min() > 200
    rgb[rows, columns] = 0
    assert rgb.max() < 50


COLORS = [(230, 40, 60), (30, 200, 70), (20, 60, 220), (128, 128, 128), (255, 255, 255), (10, 10, 10)]


@pytest.mark.parametrize("matrix", [1, 5, 6, 9], ids=["bt709", "bt470bg", "smpte170m", "bt2020"])
@pytest.mark.parametrize("color_range", [1, 2], ids=["limited", "full"])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le"])
def test_colours_are_those_that_were_stored(tmp_path, matrix, color_range, pixel_format):
    kr, kb = {1: (0.2126, 0.0722), 9: (0.2627, 0.0593)}.get(matrix, (0.299, 0.114))
    with av.open(str(tmp_path / "clip.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25, width=32, height=32, pix_fmt=pixel_format)
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, color_range
        for index, color in enumerate(COLORS):
            frame = flat_frame(color, kr, kb, color_range == 2, pixel_format)
            frame.colorspace, frame.color_range, frame.pts = matrix, color_range, index
            frame.time_base = Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frames = list(read_frames(tmp_path / "clip.mkv"))
    for frame, color in zip(frames, COLORS, strict=True):
        assert np.abs(frame.to_rgb().astype(int) - color).max() <= 3


def flat_frame(color, kr, kb, full, pixel_format):
    """A frame of one colour, by the formulas of BT.709 and its kin rather than by FFmpeg."""
    red, green, blue = (value / 255 for value in color)
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    differences = ((blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr))
    depth = 2 if "10" in pixel_format else 0
    if full:
        top = 255 if not depth else 1023
        values = [luma * top, *(top * d + (1 << 7 + depth) for d in differences)]
    else:
        values = [(16 + 219 * luma) * 2**depth, *((128 + 224 * d) * 2**depth for d in differences)]
    frame = av.VideoFrame(32, 32, pixel_format)
    for plane, value in zip(frame.planes, values, strict=True):
        samples = np.full(plane.buffer_size // (2 if depth else 1), round(value), np.uint16 if depth else np.uint8)
        plane.update(samples.tobytes())
    return frame


@pytest.mark.parametrize(("height", "kr", "kb"), [(480, 0.299, 0.114), (720, 0.2126, 0.0722)])
def test_unflagged_colours_are_taken_as_players_do(tmp_path, height, kr, kb):
    red, green, blue = 0.9, 0.2, 0.3
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    frame = av.VideoFrame(64, height, "yuv420p")
    values = (16 + 219 * luma, 128 + 112 * (blue - luma) / (1 - kb), 128 + 112 * (red - luma) / (1 - kr))
    for plane, value in zip(frame.planes, values, strict=True):
        plane.update(bytes([round(value)]) * plane.buffer_size)
    with av.open(str(tmp_path / "clip.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25, width=64, height=height, pix_fmt="yuv420p")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (decoded,) = read_frames(tmp_path / "clip.mkv")
    assert np.abs(decoded.to_rgb()[0, 0] - 255 * np.array([red, green, blue])).max() <= 3


# --- still pictures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "100%d.png", "frame_%05d.jpg"])
def test_a_still_picture_is_a_clip_of_one_frame(tmp_path, name):
    picture = np.kron(sample_picture(0, 16, 12), np.ones((4, 4, 1), np.uint8))[:47, :63]
    Image.fromarray(picture).save(tmp_path / name)
    info = probe(tmp_path / name)
    assert (info.width, info.height, info.num_frames, info.frame_rate, info.has_audio) == (63, 47, 1, None, False)
    (frame,) = read_frames(tmp_path / name)
    assert (frame.index, frame.time) == (0, 0)
    assert close(frame.to_rgb(), picture)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize(("orientation", "turns"), [(6, -1), (8, 1), (3, 2)])
def test_exif_orientation_is_honoured(tmp_path, suffix, orientation, turns):
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:16, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(tmp_path / f"a{suffix}", exif=exif)
    (frame,) = read_frames(tmp_path / f"a{suffix}")
    assert close(frame.to_rgb(), np.rot90(picture, turns), 2)
    assert (probe(tmp_path / f"a{suffix}").width, probe(tmp_path / f"a{suffix}").rotation) == (
        frame.to_rgb().shape[1],
        0,
    )


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16"])
def test_other_kinds_of_pictures_become_rgb(tmp_path, mode):
    grey = np.tile(np.arange(0, 240, 10, dtype=np.uint8), (24, 1))
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(np.dstack([grey] * 3))
        image = image.quantize(32) if mode == "P" else image.convert(mode)
    path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    image.save(path)
    (frame,) = read_frames(path)
    assert close(frame.to_rgb(), np.dstack([grey] * 3), 6)


def test_an_animated_picture_is_a_video(tmp_path):
    pictures = [Image.fromarray(sample_picture(index)) for index in range(0, 12, 4)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=100)
    assert [frame.time for frame in read_frames(tmp_path / "a.gif")] == [0, Fraction(1, 10), Fraction(1, 5)]


# --- clocks with faults --------------------------------------------------------------------------------------------


def test_times_increase_whatever_the_stamps():
    from video_saliency.video_io import _Clock

    clock = _Clock(Fraction(1, 1000), Fraction(25))
    # missing, repeated and backward stamps, then a clock that starts anew after an hour
    stamps = [3_600_000, None, 3_600_080, 3_600_080, 3_600_070, 3_600_120, 0, 40, 80]
    milliseconds = [1000 * clock.time(stamp) for stamp in stamps]
    assert milliseconds == [0, 40, 80, 81, 82, 120, 160, 200, 240]


def test_a_first_frame_without_stamp_starts_at_zero():
    from video_saliency.video_io import _Clock

    clock = _Clock(Fraction(1, 1000), Fraction(50))
    assert [1000 * clock.time(stamp) for stamp in (None, 20, None)] == [0, 20, 40]


# --- damaged files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "options", "expected"),
    [
        (".mp4", {"muxer_options": {"movflags": "faststart"}}, 40),
        (".mp4", {"muxer_options": {"movflags": "faststart"}, "audio": "aac"}, 40),
        (".mp4", {"muxer_options": {"movflags": "frag_keyframe+empty_moov"}, "codec_options": {"g": "5"}}, None),
        (".mkv", {}, 40),
        (".mkv", {"audio": "aac"}, 41),  # an estimate: the sound is a bit longer
        (".webm", {"codec": "libvpx", "codec_options": {"cpu-used": "8"}}, 40),
        (".avi", {"codec": "mjpeg", "pixel_format": "yuvj420p", "time_base": Fraction(1, 25)}, 40),
    ],
)
@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_a_truncated_file_gives_its_good_frames_then_an_error(tmp_path, suffix, options, expected, keep):
    path = make_clip(tmp_path / f"whole{suffix}", 40, **options)
    whole = [frame.to_rgb() for frame in read_frames(path)]
    cut = cut_file(path, keep)
    frames, message = read_until_break(cut)
    assert 5 < len(frames) <= 40
    assert all(np.array_equal(frame.to_rgb(), whole[frame.index]) for frame in frames)
    assert f"{len(frames)} " in message and "frames could be read" in message and "\n" not in message
    if expected is not None:  # fragments do not tell how many will follow
        assert len(frames) < 40
        assert f"of {expected}" in message
        assert probe(cut).num_frames == expected


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("codec_options", [None, {"preset": "medium"}], ids=["no_b_frames", "b_frames"])
def test_a_damaged_tail_is_a_truncation(tmp_path, threads, codec_options, monkeypatch):
    monkeypatch.setattr(video_container, "MAX_DECODER_THREADS", threads)
    monkeypatch.setattr(os, "cpu_count", lambda: threads)
    path = make_clip(tmp_path / "clip.mp4", 60, codec_options=codec_options)
    frames, message = read_until_break(damage_packets(path, range(40, 60)))
    assert 38 <= len(frames) <= 40
    assert "of 60" in message
    assert all(close(frame.to_rgb(), sample_picture(frame.index), 12) for frame in frames)


@pytest.mark.parametrize("threads", [1, 8])
def test_a_few_damaged_packets_in_the_middle_are_left_out(tmp_path, threads, monkeypatch, caplog):
    monkeypatch.setattr(video_container, "MAX_DECODER_THREADS", threads)
    monkeypatch.setattr(os, "cpu_count", lambda: threads)
    path = make_clip(tmp_path / "clip.mp4", 60)
    with caplog.at_level(logging.WARNING):
        frames = list(read_frames(damage_packets(path, [20, 21, 54])))
    assert [frame.index for frame in frames] == list(range(57))
    assert [frame.time * 25 for frame in frames] == [n for n in range(60) if n not in (20, 21, 54)]
    assert "3 packets could not be decoded" in caplog.text


def test_a_change_of_size_is_scaled_to_the_first(tmp_path, caplog):
    parts = [make_clip(tmp_path / f"{w}.h264", 5, width=w, height=h) for w, h in ((64, 48), (32, 24))]
    (tmp_path / "both.h264").write_bytes(parts[0].read_bytes() + parts[1].read_bytes())
    frames = list(read_frames(tmp_path / "both.h264"))
    assert {frame.to_rgb().shape for frame in frames} == {(48, 64, 3)}
    assert len(frames) == 10
    assert "changes its size at frame 5" in caplog.text


# --- not a video ---------------------------------------------------------------------------------------------------


def make_text(tmp_path, name="notes.txt"):
    (tmp_path / name).write_text("hello\n" * 500)
    return tmp_path / name


def make_empty(tmp_path):
    (tmp_path / "empty.mp4").touch()
    return tmp_path / "empty.mp4"


def make_folder(tmp_path):
    return tmp_path


def make_without_index(tmp_path):
    return cut_file(make_clip(tmp_path / "clip.mp4", 40), 0.5)


def make_sound_only(tmp_path):
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    return tmp_path / "sound.wav"


def make_damaged_picture(tmp_path):
    Image.fromarray(sample_picture(0, 256, 256)).save(tmp_path / "a.png")
    return cut_file(tmp_path / "a.png", 0.5)


def make_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def make_all_damaged(tmp_path):
    return damage_packets(make_clip(tmp_path / "clip.mp4", 5), range(5))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda tmp_path: tmp_path / "none.mp4", FileNotFoundError, "does not exist: check the path"),
        (lambda tmp_path: make_text(tmp_path) / "x.mp4", FileNotFoundError, "does not exist"),
        (make_folder, VideoError, "is a folder: pass a video file in it"),
        (make_empty, VideoError, "is empty: copy or download it again"),
        (make_text, VideoError, "text file|is not a video"),
        (partial(make_text, name="notes.mp4"), VideoError, "is not a video"),
        (partial(make_text, name="notes.nfo"), VideoError, "text file|is not a video"),
        (make_without_index, VideoError, "'moov' index"),
        (make_sound_only, VideoError, "has no video stream, only audio"),
        (make_damaged_picture, VideoError, "is a damaged picture"),
        (make_pipe, VideoError, "is not a regular file"),
        (make_all_damaged, VideoError, "no frame of .* can be decoded"),
        (lambda _: "rtsp://localhost/clip", VideoError, "only http:// and https://"),
        (lambda _: "http://127.0.0.1:1/clip.mp4", VideoError, "cannot read .* check the address"),
    ],
)
@pytest.mark.parametrize("read", [probe, lambda source: list(read_frames(source))], ids=["probe", "read_frames"])
def test_errors_are_one_line_and_say_what_to_do(tmp_path, make, error, message, read):
    source = make(tmp_path)
    with pytest.raises(error, match=message) as raised:
        read(source)
    assert "\n" not in str(raised.value)
    assert not isinstance(raised.value, TruncatedVideoError)


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="needs users")
def test_no_permission_says_so(tmp_path):
    path = make_clip(tmp_path / "secret.mp4", 1)
    path.chmod(0)
    # as an unprivileged user: root may read everything
    code = (
        "import os, sys\n"
        "from video_saliency.video_io import probe\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "try: probe(sys.argv[1])\n"
        "except PermissionError as error: print(error)\n"
    )
    for folder in [path.parent, *path.parent.parents]:
        if folder.stat().st_uid == os.getuid() and folder != folder.parent and not folder.stat().st_mode & 1:
            folder.chmod(folder.stat().st_mode | 0o111)
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert "secret.mp4 must not be read by this user: change its permissions" in done.stdout


# --- names and addresses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a:b.mp4", "-x.mp4", "100% %03d.mp4", "Größe.mp4", "a?b#c.mp4"])
def test_unusual_names(tmp_path, name, monkeypatch):
    make_clip(tmp_path / "clip.mp4", 2).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(list(read_frames(name))) == 2


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_addresses(tmp_path, server):
    path = make_clip(tmp_path / "clip.mp4", muxer_options={"movflags": "faststart"})
    cut_file(path, 0.6)
    url = f"{server}/clip.mp4"
    assert probe(url) == probe(path)
    for remote, local in zip(read_frames(url), read_frames(path), strict=True):
        assert remote.time == local.time and np.array_equal(remote.to_rgb(), local.to_rgb())
    frames, message = read_until_break(f"{server}/cut.mp4")
    assert 0 < len(frames) < 12 and "of 12" in message
    with pytest.raises(FileNotFoundError, match="does not exist on the server"):
        probe(f"{server}/none.mp4")
