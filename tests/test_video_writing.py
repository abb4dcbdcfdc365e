# SPDX-License-Identifier: Apache-2.0
"""Writing videos: segments, joining them, sound, and files that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
from fractions import Fraction

import av
import numpy as np
import pytest
from video_factory import cut_file, make_clip, packets_of, sample_picture

from video_saliency.video_io import (
    SegmentWriter,
    TruncatedVideoError,
    join_segments,
    probe,
    read_audio,
    read_frames,
    write_video,
)

TICK = Fraction(1, 12_800)
TIMES = [Fraction(index, 25) for index in range(20)]


def write_segment(path, indices, times=TIMES, time_base=TICK, size=(64, 48), **options):
    with SegmentWriter(path, *size, time_base, **options) as writer:
        for index in indices:
            writer.write(sample_picture(index, *size), times[index])
    return path


def decoded(path):
    return [(frame.time, frame.to_rgb()) for frame in read_frames(path)]


def pairs(times, size=(64, 48)):
    return ((sample_picture(index, *size), time) for index, time in enumerate(times))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- pictures and times --------------------------------------------------------------------------------------------


def test_frames_come_back_with_their_colours(tmp_path):
    assert write_video(tmp_path / "clip.mp4", pairs(TIMES)) == "none"
    frames = decoded(tmp_path / "clip.mp4")
    assert [time for time, _ in frames] == TIMES
    for index, (_, rgb) in enumerate(frames):
        assert np.abs(rgb.astype(int) - sample_picture(index)).mean() < 5
    info = probe(tmp_path / "clip.mp4")
    assert (info.codec, info.pixel_format, info.duration_s, info.has_audio) == ("h264", "yuv420p", 0.8, False)
    assert names(tmp_path) == ["clip.mp4"]


@pytest.mark.parametrize("color", [(230, 40, 60), (30, 200, 70), (20, 60, 220), (255, 255, 255), (3, 3, 3)])
def test_flat_colours_are_exact_and_flagged(tmp_path, color):
    rgb = np.full((720, 64, 3), color, np.uint8)  # a height at which unflagged and flagged are the same
    small = np.full((48, 64, 3), color, np.uint8)  # and one at which they are not
    for name, picture in (("large.mp4", rgb), ("small.mp4", small)):
        write_video(tmp_path / name, [(picture, Fraction(0))])
        assert np.abs(decoded(tmp_path / name)[0][1].astype(int) - color).max() <= 3
        with av.open(str(tmp_path / name)) as container:
            frame = next(container.decode(video=0))
            assert (frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range) == (1, 1, 1, 1)


VARIABLE = [Fraction(n, 1000) for n in (0, 40, 50, 170, 171, 400, 433)]
NTSC = [Fraction(1001 * n, 30_000) for n in range(9)]


@pytest.mark.parametrize(
    ("times", "time_base", "last_gap"),
    [
        (VARIABLE, Fraction(1, 1000), Fraction(33, 1000)),
        (VARIABLE, Fraction(1, 90_000), Fraction(33, 1000)),
        (NTSC, Fraction(1, 30_000), Fraction(1001, 30_000)),
        (NTSC, Fraction(1001, 30_000), Fraction(1001, 30_000)),
        ([Fraction(0), Fraction(7200)], Fraction(1, 90_000), Fraction(7200)),  # two hours
        ([Fraction(0)], Fraction(1, 1000), Fraction(1, 25)),
        ([time + 100_000 for time in VARIABLE], Fraction(1, 1000), Fraction(33, 1000)),  # a late segment
        ([Fraction(n, 10**9) for n in (0, 40_000_000)], Fraction(1, 10**9), Fraction(1, 25)),  # finer than we keep
    ],
)
def test_times_are_kept(tmp_path, times, time_base, last_gap):
    path = write_segment(tmp_path / "a.mp4", range(len(times)), times, time_base)
    assert [time for time, _ in packets_of(path)] == times
    join_segments([path], tmp_path / "b.mp4")
    assert [time for time, _ in packets_of(tmp_path / "b.mp4")] == times
    with av.open(str(tmp_path / "b.mp4")) as container:
        *_, last = (packet for packet in container.demux(video=0) if packet.size)
        assert last.duration * last.time_base == last_gap


def test_the_default_tick_holds_all_usual_rates(tmp_path):
    for rate in (24, 25, 30, 50, 60, Fraction(25, 2), *(Fraction(n * 1000, 1001) for n in (24, 30, 60))):
        times = [n / Fraction(rate) for n in range(3)]
        write_video(tmp_path / "clip.mp4", pairs(times), frame_rate=Fraction(rate))
        assert [time for time, _ in packets_of(tmp_path / "clip.mp4")] == times


def test_a_coarse_tick_never_makes_two_frames_one(tmp_path):
    times = [Fraction(n, 100) for n in range(5)]
    path = write_segment(tmp_path / "a.mp4", range(5), times, Fraction(1, 20))
    assert [time for time, _ in packets_of(path)] == [Fraction(n, 20) for n in range(5)]


@pytest.mark.parametrize(("width", "height"), [(63, 47), (64, 47), (63, 48), (1, 1), (2, 2), (17, 333)])
def test_odd_sizes_become_even_by_the_last_row_and_column(tmp_path, width, height):
    rgb = np.kron(np.random.default_rng(0).integers(0, 255, (1, 1, 3)), np.ones((height, width, 1))).astype(np.uint8)
    rgb[:, -1] = (250, 250, 250)
    write_video(tmp_path / "clip.mp4", [(rgb, Fraction(0))])
    (_, picture) = decoded(tmp_path / "clip.mp4")[0]
    assert picture.shape == (height + height % 2, width + width % 2, 3)
    assert np.abs(picture[:, width - 1 :].astype(int) - 250).max() < 30


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ([(sample_picture(0, 32, 48), 0)], "frames must be uint8"),
        ([(sample_picture(0).astype(np.float32), 0)], "frames must be uint8"),
        ([(sample_picture(0), 1), (sample_picture(1), 1)], "times must increase"),
        ([], "no frame was written"),
    ],
)
def test_wrong_frames_are_refused_and_leave_no_file(tmp_path, calls, message):
    with pytest.raises(ValueError, match=message), SegmentWriter(tmp_path / "a.mp4", 64, 48, TICK) as writer:
        for rgb, time in calls:
            writer.write(rgb, Fraction(time))
    assert names(tmp_path) == []


# --- segments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "times", [TIMES, [n * n * Fraction(1, 1000) for n in range(1, 21)]], ids=["constant", "variable"]
)
def test_joined_segments_are_those_segments(tmp_path, times):
    time_base = Fraction(1, 1000) if times is not TIMES else TICK
    parts = [write_segment(tmp_path / f"{a}.mp4", range(a, b), times, time_base) for a, b in ((0, 8), (8, 9), (9, 20))]
    assert join_segments(parts, tmp_path / "all.mp4") == "none"
    joined = packets_of(tmp_path / "all.mp4")
    assert joined == [packet for part in parts for packet in packets_of(part)]
    assert [time for time, _ in joined] == times
    # and what one sees is what a single writing shows
    write_segment(tmp_path / "single.mp4", range(20), times, time_base)
    for (time, rgb), (single_time, single) in zip(
        decoded(tmp_path / "all.mp4"), decoded(tmp_path / "single.mp4"), strict=True
    ):
        assert time == single_time and np.abs(rgb.astype(int) - single).mean() < 6  # key frames lie elsewhere
    # decoded on their own, the frames are those of the joined file, to the bit
    alone = [rgb for part in parts for _, rgb in decoded(part)]
    assert all(np.array_equal(a, b) for a, (_, b) in zip(alone, decoded(tmp_path / "all.mp4"), strict=True))


def test_a_segment_is_closed_and_the_index_is_in_front(tmp_path):
    part = write_segment(tmp_path / "a.mp4", range(20))
    with av.open(str(part)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        assert packets[0].is_keyframe and all(packet.pts == packet.dts for packet in packets)
    join_segments([part], tmp_path / "b.mp4")
    data = (tmp_path / "b.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_equal_input_gives_equal_bytes(tmp_path):
    source = make_clip(tmp_path / "source.mkv", 20, audio="pcm_s16le")
    files = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        parts = [write_segment(folder / f"{k}.mp4", range(k, k + 10)) for k in (0, 10)]
        join_segments(parts, folder / "all.mp4", audio_from=source)
        write_video(folder / "one.mp4", pairs(TIMES), audio_from=source)
        files.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert files[0] == files[1] and set(files[0]) == {"0.mp4", "10.mp4", "all.mp4", "one.mp4"}


def test_segments_must_fit_together(tmp_path):
    a, b = (write_segment(tmp_path / f"{k}.mp4", range(k, k + 5)) for k in (0, 5))
    other = write_segment(tmp_path / "other.mp4", range(5, 10), size=(32, 48))
    for parts, message in (([], "no segments"), ([b, a], "in order"), ([a, a], "in order"), ([a, other], "settings")):
        with pytest.raises(ValueError, match=message):
            join_segments(parts, tmp_path / "all.mp4")
    assert names(tmp_path) == ["0.mp4", "5.mp4", "other.mp4"]


# --- whole or not there --------------------------------------------------------------------------------------------


def test_an_exception_in_the_middle_leaves_the_old_file(tmp_path):
    def breaking():
        yield sample_picture(0), Fraction(0)
        raise TruncatedVideoError("the source breaks off")

    target = tmp_path / "clip.mp4"
    target.write_bytes(b"old")
    with pytest.raises(TruncatedVideoError):
        write_video(target, breaking())
    with pytest.raises(KeyboardInterrupt), SegmentWriter(target, 64, 48, TICK) as writer:
        writer.write(sample_picture(0), Fraction(0))
        raise KeyboardInterrupt
    assert names(tmp_path) == ["clip.mp4"] and target.read_bytes() == b"old"
    with pytest.raises(ValueError, match="no frame to write"):
        write_video(target, [])


def test_a_missing_folder_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_video(tmp_path / "none" / "clip.mp4", pairs(TIMES))


@contextlib.contextmanager
def limited_file_size(size):
    """No file can grow beyond `size`: EFBIG, reported in the same places as ENOSPC on a full disk.

    The limit holds for the whole process, its log as well: it must be gone before anything is reported.
    """
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("step", ["write", "join"])
@pytest.mark.parametrize("limit", [10_000, 100_000])
def test_a_full_disk_is_an_oserror_with_its_number(tmp_path, step, limit):
    noise = np.random.default_rng(0).integers(0, 255, (12, 240, 320, 3), dtype=np.uint8)
    source = make_clip(tmp_path / "source.mp4", audio="aac")
    part = tmp_path / "part.mp4"
    if step == "join":
        with SegmentWriter(part, 320, 240, TICK) as writer:
            for rgb, time in zip(noise, TIMES, strict=False):
                writer.write(rgb, time)
    with pytest.raises(OSError) as raised, limited_file_size(limit):
        if step == "join":
            join_segments([part], tmp_path / "full.mp4", audio_from=source)
        else:
            write_video(tmp_path / "full.mp4", zip(noise, TIMES, strict=False))
    assert raised.value.errno == errno.EFBIG
    assert names(tmp_path) == (["part.mp4", "source.mp4"] if step == "join" else ["source.mp4"])


# --- sound ---------------------------------------------------------------------------------------------------------


def sound_of(path):
    blocks = list(read_audio(path))
    return blocks[0][0], np.concatenate([block for _, block in blocks], axis=1)


def lag(samples, expected, rate):
    """Seconds by which `samples` come later than `expected`, both `(start, array)`, and the mean error there."""
    (start, a), (expected_start, b) = samples, expected
    middle = slice(a.shape[1] // 3, a.shape[1] // 2)
    best = (float("inf"), 0)
    in_step = round((start - expected_start) * rate)
    for shift in range(in_step - 1500, in_step + 1501):
        begin = middle.start + shift
        if begin >= 0 and begin + (middle.stop - middle.start) <= b.shape[1]:
            other = b[0, begin : begin + middle.stop - middle.start]
            best = min(best, (float(np.abs(a[0, middle] - other).mean()), shift))
    return start - expected_start - best[1] / rate, best[0]


def make_chirp_clip(path, codec, **options):
    """A clip whose sound never repeats, so that its lag can be measured."""
    import video_factory

    def chirp(num_samples, rate, channels=2):
        time = np.arange(num_samples) / rate
        return np.stack([0.4 * np.sin(2 * np.pi * (200 + 300 * time) * time)] * channels).astype(np.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video_factory, "sine", chirp)
        return make_clip(path, 25, audio=codec, **options)


SOUNDS = [
    (".mp4", "aac", {}, "copied"),
    (".mkv", "aac", {}, "copied"),
    (".ts", "aac", {}, "copied"),
    (".mkv", "libmp3lame", {}, "copied"),
    (".mp4", "libmp3lame", {}, "copied"),
    (".mkv", "pcm_s16le", {}, "encoded to AAC (source: pcm_s16le)"),
    (".mkv", "flac", {}, "encoded to AAC (source: flac)"),
    (".mp4", "libopus", {"audio_rate": 48_000}, "encoded to AAC (source: opus)"),
    (".mkv", "ac3", {"audio_rate": 48_000, "audio_channels": 6}, "encoded to AAC (source: ac3)"),
    (".mkv", "pcm_s16le", {"audio_rate": 37_800, "audio_channels": 1}, "encoded to AAC (source: pcm_s16le)"),
]


@pytest.mark.parametrize(("suffix", "codec", "options", "outcome"), SOUNDS)
def test_sound_is_kept_in_step(tmp_path, suffix, codec, options, outcome):
    source = make_chirp_clip(tmp_path / f"source{suffix}", codec, **options)
    times = [frame.time for frame in read_frames(source)]
    assert write_video(tmp_path / "out.mp4", pairs(times), audio_from=source) == outcome
    out = tmp_path / "out.mp4"
    assert [time for time, _ in packets_of(out)] == times
    info = probe(out)
    assert info.audio_codec.removesuffix("float") in ("aac", "mp3")
    rate = options.get("audio_rate", 44_100)
    if info.audio_sampling_rate == rate and options.get("audio_channels", 2) < 3:
        delay, error = lag(sound_of(out), sound_of(source), rate)
        assert abs(delay) < 1152 / rate and error < 0.03
        assert abs(delay) < 0.003 or outcome == "copied"  # an encoder's own delay is made up for
    else:
        assert info.audio_sampling_rate == 48_000
    assert sound_of(out)[1].shape[1] / info.audio_sampling_rate == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "aac"), (".mkv", "libmp3lame")])
def test_copied_sound_has_the_same_packets(tmp_path, suffix, codec):
    source = make_clip(tmp_path / f"source{suffix}", 25, audio=codec)
    write_video(tmp_path / "out.mp4", pairs([Fraction(n, 25) for n in range(25)]), audio_from=source)
    ours, theirs = (packets_of(path, "audio") for path in (tmp_path / "out.mp4", source))
    assert [data for _, data in ours] == [data for _, data in theirs][: len(ours)]
    assert len(theirs) - len(ours) <= 2  # what lies behind the last frame
    assert all(abs(a - b) <= Fraction(1, 1000) for (a, _), (b, _) in zip(ours, theirs, strict=False))
    a, b = sound_of(tmp_path / "out.mp4")[1], sound_of(source)[1]
    if suffix == ".mp4":
        assert np.array_equal(a[:, : b.shape[1]], b[:, : a.shape[1]])


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
@pytest.mark.parametrize("audio_start", [Fraction(2, 5), Fraction(-1, 5)])
def test_the_offset_to_the_first_frame_is_kept(tmp_path, codec, audio_start):
    source = make_chirp_clip(tmp_path / "source.mkv", codec, start=Fraction(2), audio_start=audio_start)
    write_video(tmp_path / "out.mp4", pairs([Fraction(n, 25) for n in range(25)]), audio_from=source)
    assert [time for time, _ in packets_of(tmp_path / "out.mp4")][0] == 0
    delay, error = lag(sound_of(tmp_path / "out.mp4"), sound_of(source), 44_100)
    assert abs(delay) < 1024 / 44_100 and error < 0.03


def test_a_gap_in_encoded_sound_becomes_silence(tmp_path):
    from video_saliency.audio_io import _gapless

    blocks = [(Fraction(-1, 100), 20), (Fraction(1, 100), 10), (Fraction(1, 2), 10), (Fraction(51, 100), 900)]
    ones = ((time, np.ones((1, size), np.float32)) for time, size in blocks)
    pieces = list(_gapless(ones, 1000, Fraction(1)))
    positions = [position for position, _ in pieces]
    assert positions == [0, 10, 20, 500, 510]
    sound = np.concatenate([piece for _, piece in pieces], axis=1)[0]
    assert len(sound) == 1000 and sound[:20].all() and not sound[20:500].any() and sound[500:].all()


def test_sound_longer_than_the_video_ends_with_it(tmp_path):
    for codec in ("aac", "pcm_s16le"):
        source = make_clip(tmp_path / "source.mkv", 5, audio=codec, audio_duration=Fraction(3))
        write_video(tmp_path / "out.mp4", pairs(TIMES[:10]), audio_from=source)
        assert 0.35 < sound_of(tmp_path / "out.mp4")[1].shape[1] / 44_100 < 0.45


def test_a_truncated_source_gives_sound_up_to_the_break(tmp_path):
    source = make_clip(tmp_path / "source.mkv", 50, audio="aac")
    cut = cut_file(source, 0.6)
    frames = []
    with pytest.raises(TruncatedVideoError):
        for frame in read_frames(cut):
            frames.append((frame.to_rgb(), frame.time))
    assert write_video(tmp_path / "out.mp4", frames, audio_from=cut) == "copied"
    seconds = sound_of(tmp_path / "out.mp4")[1].shape[1] / 44_100
    assert seconds == pytest.approx(len(frames) / 25, abs=0.25)


def test_no_sound_is_said(tmp_path):
    silent = make_clip(tmp_path / "silent.mp4")
    assert write_video(tmp_path / "out.mp4", pairs(TIMES), audio_from=silent) == "none"
    assert not probe(tmp_path / "out.mp4").has_audio


def break_sound(path, codec):
    """All packets of the sound become noise."""
    data = bytearray(path.read_bytes())
    noise = np.random.default_rng(0)
    with av.open(str(path)) as container:
        for packet in container.demux(audio=0):
            if packet.size:
                start = data.index(bytes(packet))
                data[start : start + packet.size] = noise.bytes(packet.size)
    path.write_bytes(data)
    return path


def test_broken_sound_does_not_lose_the_video(tmp_path, caplog):
    source = break_sound(make_clip(tmp_path / "source.mkv", audio="flac"), "flac")
    outcome = write_video(tmp_path / "out.mp4", pairs(TIMES), audio_from=source)
    assert outcome == "none (the sound of the source cannot be decoded, or there is none while the video runs)"
    assert "out.mp4 has no sound" in caplog.text
    assert [time for time, _ in decoded(tmp_path / "out.mp4")] == TIMES and not probe(tmp_path / "out.mp4").has_audio


def test_a_source_that_is_gone_does_not_lose_the_video(tmp_path):
    outcome = write_video(tmp_path / "out.mp4", pairs(TIMES), audio_from=tmp_path / "gone.mp4")
    assert outcome.startswith("none (") and "does not exist" in outcome
    assert len(decoded(tmp_path / "out.mp4")) == 20
    assert names(tmp_path) == ["out.mp4"]
