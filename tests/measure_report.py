"""Measures how large a report is and how fast it opens:

    python tests/measure_report.py [--clips 100] [--size 112] [--frames 16] [--keep report.html]

Synthetic clips, attacked in a demo victim that is not trained, all shown frame by frame. The page
is opened from the disk in headless Chromium at 1,280 x 900 px. Printed are the file's size, and
medians of the seconds from the start of the navigation: until the page is loaded, until the first
clip is painted, until the first chart is drawn once one scrolls to it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from browser import chromium


def make_report(path: Path, clips: int, frames: int, size: int) -> None:
    """Writes a report that shows all of the clips."""
    import torch

    from vidmarl import GrowAndReduce, load_victim
    from vidmarl.data.synthetic import make_clip
    from vidmarl.report import write_report

    victim = load_victim("demo", weights="random", spec={"frames": frames, "size": (size, size)})
    films = torch.stack([make_clip(0, i, i % 8, frames, size) for i in range(clips)]).float() / 255
    result = GrowAndReduce("gaussian_noise", budget=12, clips_at_once=10)(victim, films)
    write_report(path, result, max_clips=clips)


def open_in(browser: Any, path: Path) -> list[float]:
    """Seconds until the page is loaded, its first clip painted, and its first chart drawn."""
    from selenium.webdriver.common.by import By

    browser.get("about:blank")
    browser.get(path.as_uri())
    loaded = browser.execute_script("return performance.getEntriesByType('navigation')[0].loadEventEnd")
    browser.execute_script("document.querySelector('.clip').scrollIntoView()")
    painted = _moment(browser, "document.querySelector('.clip[data-painted]')")
    browser.execute_script("arguments[0].scrollIntoView()", browser.find_element(By.CSS_SELECTOR, ".chart.curves"))
    drawn = _moment(browser, "document.querySelector('.chart.curves .main-svg')")
    return [loaded / 1000, painted, drawn]


def _moment(browser: Any, condition: str) -> float:
    """When something comes true, in seconds since the page began."""
    deadline = time.monotonic() + 60
    while not (now := browser.execute_script(f"return {condition} ? performance.now() : null")):
        assert time.monotonic() < deadline, f"never came true: {condition}"
        time.sleep(0.02)
    return float(now) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"clips": 100, "size": 112, "frames": 16, "repeats": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--keep", type=Path, help="where to keep the report; it is not made anew if it is there")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = (asked.keep or Path(folder) / "report.html").resolve()
        if not report.exists():
            make_report(report, asked.clips, asked.frames, asked.size)
        browser = chromium(Path(folder) / "profile")
        try:
            times = zip(*(open_in(browser, report) for _ in range(asked.repeats)), strict=True)
        finally:
            browser.quit()
        loaded, painted, drawn = (statistics.median(each) for each in times)
        print(
            f"{asked.clips} clips: {report.stat().st_size / 1e6:.1f} MB, loaded after {loaded:.2f} s,"
            f" first clip painted after {painted:.2f} s, first chart drawn after {drawn:.2f} s"
        )


if __name__ == "__main__":
    main()
