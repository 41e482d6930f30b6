"""Makes the pictures of docs/screenshots/, by headless Chromium:

    python docs/make_screenshots.py [attack] [report] [benchmark] [site] [notebooks] [NOTEBOOK ...]

"attack" and "report" show MoViNet-A0 on a clip of Intel's sample videos (CC BY 4.0) where
VIDMARL_DATA has it, and otherwise the demo's victim on a synthetic clip. Notebooks are executed, a
minute or three each.
"""

from __future__ import annotations

import argparse
import html
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "screenshots"
CLIP = "clips/various/intel_asl/school.mp4"
CREDIT = "clip: intel-iot-devkit/sample-videos, CC BY 4.0"
SIDE, CUT = 520, 32
"""Px of a picture in the first of them, and of the cut around the region."""

MOST = 150_000
"""Bytes of a picture."""


class Browser:
    """Chromium, which opens files and takes pictures of what it shows."""

    def __init__(self, folder: Path) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        for argument in (
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}",
        ):
            options.add_argument(argument)
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))

    def picture(self, page: Path, name: str, *, width: int, height: int, to: str = "", wait: float = 2.0) -> None:
        """Writes a picture of a page, or of what is seen where an element of it is on top.

        Args:
            page: the file.
            name: of the picture.
            width: of the window, px.
            height: of the window, px.
            to: CSS selector of the element; "" for the beginning.
            wait: seconds for charts to be drawn.
        """
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get(page.as_uri())
        time.sleep(wait)
        if to:
            self.driver.execute_script(
                "document.body.style.paddingBottom = '100vh';"  # so that the last element comes to the top too
                "document.querySelector(arguments[0])?.scrollIntoView({behavior: 'instant'})",
                to,
            )
            time.sleep(wait)
        picture = Image.open(io.BytesIO(self.driver.get_screenshot_as_png())).convert("RGB")
        blank = Image.new("RGB", picture.size, picture.getpixel((width - 1, height - 1)))
        box = ImageChops.difference(picture, blank).getbbox()
        write(picture.crop((0, 0, width, min(height, (box[3] if box else height) + 16))), name)


def write(picture: Image.Image, name: str) -> None:
    """Writes a picture as WebP, as good as fits into the bytes."""
    OUT.mkdir(exist_ok=True)
    for quality in range(90, 10, -10):
        file = io.BytesIO()
        picture.save(file, "WEBP", quality=quality, method=6)
        if file.tell() < MOST:
            break
    (OUT / f"{name}.webp").write_bytes(file.getvalue())
    print(f"{name}.webp: {picture.width} x {picture.height} px, {file.tell() // 1000} kB, quality {quality}")


def attacked() -> tuple[Any, Any, str]:
    """A victim, the result of an attack on one clip, and whose clip it is."""
    import torch

    import vidmarl
    from vidmarl.data import data_root
    from vidmarl.data.synthetic import make_clip

    if (data_root() / CLIP).is_file():
        victim = vidmarl.load_victim("movinet_a0", spec={"frames": 16, "size": (172, 172)})
        clips, credit = vidmarl.load_clips([data_root() / CLIP], victim), CREDIT
    else:
        victim = vidmarl.load_victim("demo")
        clips, credit = torch.stack([make_clip(0, 0, 0)]).float() / 255, "a synthetic clip"
    return victim, vidmarl.RLAttack("gaussian_noise", budget=300, progress=False)(victim, clips), credit


def attack(browser: Browser, folder: Path) -> None:
    """A clip before and after, at the frame that changes the most, and its region enlarged."""
    from vidmarl.report import pictures

    victim, result, credit = attacked()
    clean, adversarial, strength = result.clean[0], result.adversarial[0], result.strength[0]
    frame = int((adversarial - clean).square().sum((0, 2, 3)).argmax())
    before, after = (pictures.to_frames(clip)[frame] for clip in (clean, adversarial))
    outlines = pictures.hulls(strength, result.settings["grid"], frame)
    whole = pictures.enlarged(after, SIDE)
    whole = pictures.outlined(whole, [outline * (len(whole) / len(after)) for outline in outlines])
    middle = outlines[0].mean(0).round().astype(int)
    x, y = (int(min(max(at - CUT // 2, 0), side - CUT)) for at, side in zip(middle, after.shape[1::-1], strict=True))
    cut = pictures.enlarged(after[y : y + CUT, x : x + CUT], SIDE)
    said, now = (html.escape(victim.label(int(of))) for of in (result.prediction, result.adversarial_prediction))
    sure, still = (float(victim(clips).exp().max()) for clips in (result.clean, result.adversarial))
    captions = [
        f"<b>{said}</b>, {sure:.0%}",
        f"<b>{now}</b>, {still:.0%}",
        f"the outline, {len(cut) // CUT / (len(whole) // len(after)):.0f} times larger",
    ]
    figures = "".join(
        f'<figure><img src="{pictures.picture(film)}"><figcaption>{caption}</figcaption></figure>'
        for film, caption in zip((pictures.enlarged(before, SIDE), whole, cut), captions, strict=True)
    )
    touched = int((adversarial - clean).abs().amax((0, 2, 3)).gt(0).sum())
    about = (
        f"{victim.name} on a clip, and on what vidmarl made of it with {int(result.queries[0])} queries: Gaussian noise"
        f" in {touched} of {clean.shape[1]} frames, L2 {float((adversarial - clean).norm()):.2f}; {credit}"
    )
    page = folder / "attack.html"
    page.write_text(
        "<!DOCTYPE html><meta charset=utf-8><style>"
        "body { margin: 14px; font: 18px system-ui, sans-serif; color: #222; background: #fff }"
        "main { display: grid; grid-template-columns: repeat(3, 1fr); gap: 12px } figure { margin: 0 }"
        "img { width: 100%; display: block; border-radius: 8px; image-rendering: pixelated }"
        "figcaption { padding: 8px 2px 0 } p { margin: 10px 2px 0; font-size: 13px; color: #777 }"
        f"</style><main>{figures}</main><p>{html.escape(about)}.</p>",
        "utf-8",
    )
    browser.picture(page, "attack", width=1100, height=440, wait=0.5)


def report(browser: Browser, folder: Path) -> None:
    """The report of that attack."""
    from vidmarl.report import write_report

    victim, result, _ = attacked()
    page = write_report(
        folder / "report.html", result, title=f"RLAttack against {victim.name}", names=[Path(CLIP).name]
    )
    browser.picture(page, "report", width=1100, height=1400)
    browser.picture(page, "report_phone", width=400, height=900)


def benchmark(browser: Browser, folder: Path) -> None:
    """The report of a small benchmark that keeps its clips."""
    command = [
        sys.executable,
        "-m",
        "vidmarl",
        "benchmark",
        "-c",
        "conf/benchmark/small.yaml",
        "--keep_clips",
        "true",
        "--max_clips",
        "3",
    ]
    subprocess.run([*command, "--out", str(folder / "benchmark")], cwd=ROOT, check=True)
    browser.picture(next((folder / "benchmark").rglob("report.html")), "benchmark", width=1100, height=1400)


def site(browser: Browser, folder: Path) -> None:
    """The front page of the site."""
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder / "site")]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    browser.picture(folder / "site" / "index.html", "site", width=1280, height=900)


def notebook(browser: Browser, folder: Path, name: str) -> None:
    """A notebook where its first figure is; it is executed unless the folder has it already."""
    page = folder / f"{name}.html"
    if not page.exists():
        command = [sys.executable, "-m", "nbconvert", "--execute", "--to", "html", "--output-dir", str(folder)]
        subprocess.run([*command, f"notebooks/{name}.ipynb"], cwd=ROOT, check=True)
    browser.picture(page, name, width=1000, height=1000, to=".jp-Cell:has(.js-plotly-plot)", wait=4)


PARTS: dict[str, Callable[[Browser, Path], None]] = {
    "attack": attack,
    "report": report,
    "benchmark": benchmark,
    "site": site,
}


def main() -> None:
    notebooks = [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, "notebooks", *notebooks], default=[*PARTS, "notebooks"])
    parser.add_argument("--executed", type=Path, help="a folder of notebooks as HTML, which are not executed again")
    options = parser.parse_args()
    asked = options.parts
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        browser = Browser(folder / "profile")
        for name in [*(part for part in PARTS if part in asked)]:
            PARTS[name](browser, folder)
        for name in notebooks:
            if name in asked or "notebooks" in asked:
                notebook(browser, options.executed or folder, name)
        browser.driver.quit()


if __name__ == "__main__":
    main()
