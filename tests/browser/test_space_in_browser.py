# SPDX-License-Identifier: Apache-2.0
"""The Space in a real browser: Debian's Chromium, driven by playwright, at desktop and phone width.

Screenshots go to the folder that `SPACE_SCREENSHOTS` names, else to a temporary one.
"""

from __future__ import annotations

import importlib
import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from space_server import EXAMPLE_CLIP, SpaceServer

from video_saliency.map_io import read_map_shards
from video_saliency.video_io import read_frames, write_video

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
REQUIRED = os.environ.get("REQUIRE_CHROMIUM") == "1"  # where a missing browser is a fault of the machine
if CHROMIUM is None and not REQUIRED:
    pytest.skip("no Chromium on this machine: apt-get install chromium", allow_module_level=True)
if not REQUIRED:
    pytest.importorskip("playwright", reason="pip install playwright (without its browsers)")
playwright_api = importlib.import_module("playwright.sync_api")

PREDICTION_MS = 240_000  # far more than a slow machine needs, as the next
PAGE_MS = 120_000
SHORT = 30  # frames
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}

# how much more red than blue there is at most in the picture that a video element shows now
READ_PIXELS = """video => {
    const canvas = document.createElement("canvas");
    canvas.width = 64; canvas.height = 48;
    const context = canvas.getContext("2d");
    context.drawImage(video, 0, 0, 64, 48);
    const data = context.getImageData(0, 0, 64, 48).data;
    let warmest = -255;
    for (let i = 0; i < data.length; i += 4) warmest = Math.max(warmest, data[i] - data[i + 2]);
    return warmest;
}"""


@pytest.fixture(scope="module")
def server() -> Iterator[SpaceServer]:
    with SpaceServer() as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright_api.sync_playwright() as playwright:
        # root needs the first flag; the second lets a video play without a click
        flags = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield running
        running.close()


@pytest.fixture(scope="module")
def short_clip(tmp_path_factory) -> Path:
    """The first frames of the example clip, with their sound."""
    path = tmp_path_factory.mktemp("clips") / "short.mp4"
    frames = ((frame.to_rgb(), frame.time) for frame in itertools.islice(read_frames(EXAMPLE_CLIP), SHORT))
    write_video(path, frames, audio_from=EXAMPLE_CLIP)
    return path


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory) -> Path:
    folder = Path(os.environ.get("SPACE_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass
class Visit:
    """A page of the browser, and what went wrong on it."""

    page: Any
    hosts: set[str] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)

    def upload(self, path: Path) -> None:
        self.page.set_input_files("#clip input[type=file]", path)
        self.page.wait_for_selector("#clip video", state="attached")

    def wait_for_overlay(self) -> Any:
        ready = "() => { const v = document.querySelector('#overlay video'); return v && v.readyState >= 2 }"
        self.page.wait_for_function(ready, timeout=PREDICTION_MS)
        return self.page.locator("#overlay video")

    def wait_for_frame(self, index: int) -> None:
        says = "start => document.querySelector('#about-frame textarea')?.value.startsWith(start)"
        self.page.wait_for_function(says, arg=f"Frame {index} at ")

    def wait_for_summary(self, text: str) -> None:
        box = "document.querySelector('#summary input, #summary textarea')"
        self.page.wait_for_function(f"text => {box}?.value.includes(text)", arg=text)

    def check_width(self) -> None:
        overflow = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert overflow <= 0, "the page is wider than the screen"


@pytest.fixture
def visit(server, browser, request) -> Iterator[Visit]:
    """A visit to the page at the width that the test names, without requests to other hosts and without errors."""
    page = browser.new_page(viewport=dict(zip(("width", "height"), WIDTHS[request.param], strict=True)))
    page.set_default_timeout(PAGE_MS)
    visit = Visit(page)
    page.on("request", lambda sent: visit.hosts.add(sent.url.split("/")[2] if "://" in sent.url else ""))
    page.on("console", lambda line: visit.complaints.append(line.text) if line.type == "error" else None)
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    page.goto(server.url)
    page.wait_for_selector("#clip input[type=file]", state="attached")
    yield visit
    assert visit.hosts <= {server.url.removeprefix("http://"), ""}, "the page asked another host"
    assert server.network_attempts() == [], "the server asked another host"
    assert visit.complaints == []
    page.close()


@pytest.mark.parametrize("visit", ["desktop"], indirect=True)
def test_the_example_clip_on_a_desktop(visit, screenshots, tmp_path):
    page = visit.page
    page.screenshot(path=screenshots / "desktop-empty.png", full_page=True)
    visit.upload(EXAMPLE_CLIP)
    page.click("#predict")
    page.wait_for_selector("text=/frame \\d+ of 185/", timeout=PREDICTION_MS)
    page.screenshot(path=screenshots / "desktop-working.png", full_page=True)
    video = visit.wait_for_overlay()
    assert video.evaluate("video => [video.videoWidth, video.videoHeight]") == [640, 480]
    assert video.evaluate("video => video.duration") == pytest.approx(6.17, abs=0.1)
    assert video.evaluate("async video => { video.muted = true; await video.play(); return true }")
    page.wait_for_function("() => document.querySelector('#overlay video').currentTime > 0.3")
    video.evaluate("video => video.pause()")
    # the clip is black and white: only the heat map is warmer than it is blue
    assert video.evaluate(READ_PIXELS) > 60
    assert page.locator("#clip video").first.evaluate(READ_PIXELS) < 30
    visit.wait_for_summary("185 frames of 640 x 480 pixels, with sound.")

    first = page.get_attribute("#raw-map img", "src")
    visit.wait_for_frame(0)
    assert page.input_value("#about-frame textarea").startswith("Frame 0 at 0:00.00")
    slider = page.locator("#frame input[type=range]")
    slider.focus()
    slider.press("End")
    visit.wait_for_frame(184)
    page.wait_for_function("first => document.querySelector('#raw-map img').src !== first", arg=first)
    last = page.get_attribute("#raw-map img", "src")
    number = page.locator("#frame input[type=number]")
    number.fill("120")
    number.press("Enter")
    visit.wait_for_frame(120)
    page.wait_for_function("last => document.querySelector('#raw-map img').src !== last", arg=last)
    page.wait_for_function("() => document.querySelector('#frame input[type=range]').value === '120'")
    page.wait_for_selector("#curve canvas, #curve svg")
    page.screenshot(path=screenshots / "desktop-result.png", full_page=True)
    visit.check_width()
    with page.expect_download() as download:
        page.click("#table")
    lines = Path(download.value.path()).read_text().splitlines()
    assert len(lines) == 186 and lines[0].startswith("frame,time_s,")
    with page.expect_download() as download:
        page.click("#maps")
    shutil.unpack_archive(download.value.path(), tmp_path / "maps", format="zip")
    assert sum(1 for _ in read_map_shards(tmp_path / "maps")) == 185


@pytest.mark.parametrize("visit", ["phone"], indirect=True)
def test_a_short_clip_on_a_phone_and_then_no_clip(visit, screenshots, short_clip, tmp_path):
    page = visit.page
    page.screenshot(path=screenshots / "phone-empty.png", full_page=True)
    page.click("#predict")
    page.wait_for_selector("text=Please upload or record a clip first")
    page.click(".toast-close")  # it would hide a part of the screenshots
    visit.upload(short_clip)
    page.click("#predict")
    visit.wait_for_overlay()
    visit.wait_for_summary(f"{SHORT} frames of")
    page.wait_for_selector("#curve canvas, #curve svg")
    page.click("#curve-name >> text=Entropy")
    page.wait_for_selector("#raw-map img")
    page.wait_for_timeout(1000)  # for the picture of the curve
    page.screenshot(path=screenshots / "phone-result.png", full_page=True)
    visit.check_width()

    (tmp_path / "notes.mp4").write_text("This is a text, not a video. " * 50)
    page.click("#clip button[aria-label=Clear]")
    page.wait_for_selector("#clip video", state="detached")
    visit.upload(tmp_path / "notes.mp4")
    page.click("#predict")
    page.wait_for_selector("text=This is not a video that can be read")
    page.screenshot(path=screenshots / "phone-error.png")
    number = page.locator("#frame input[type=number]")  # of the clip before, whose results stay
    number.fill("3")
    number.press("Enter")
    visit.wait_for_frame(3)
