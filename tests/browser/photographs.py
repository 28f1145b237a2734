"""Photographs of the playground for docs/: of a server that runs, with real models.

    llm-from-scratch serve smollm2 oz=RUN --follow
    python tests/browser/photographs.py http://127.0.0.1:8000

The first model writes; a second one stands beside it in Compare; the first run is that of Training.
Writes playground_*.png and playground.webp. Needs the extra `browser` and a Chromium.
"""

import argparse
import io
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
from browser.conftest import chromium  # noqa: E402
from browser.guard import CLOSED, HOW, api  # noqa: E402
from browser.playground import Playground  # noqa: E402

PROMPT = "The Scarecrow looked at the yellow road and"
LAYER, HEAD = 11, 1  # from 0: of SmolLM2, a head that reads the token before
FRAME = (1100, 660)  # CSS pixels of the recording's window
WIDTH = 800  # of the recording
MOST_BYTES = 1_500_000


def photograph(page: "api.Page", path: Path, top: int = 0) -> None:
    """Takes a picture of the page scrolled to `top`; a palette of 256 colours is enough for it."""
    page.evaluate("(top) => scrollTo(0, top)", top)
    page.wait_for_timeout(500)
    picture = Image.open(io.BytesIO(page.screenshot()))
    picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {picture.width} x {picture.height}, {path.stat().st_size:,} bytes")


def text(play: Playground, tokens: int) -> None:
    """A text of the first model."""
    play.prompt.fill(PROMPT)
    play.page.locator("#temperature-number").fill("0.8")
    play.page.locator("#max_tokens-number").fill(str(tokens))
    play.write()
    play.page.wait_for_timeout(1500)


def pictures(browser: "api.Browser", address: str, folder: Path) -> None:
    """The page in light on a desk and in dark on a phone, and its tabs."""

    def opened(width: int, height: int, scheme: str) -> Playground:
        size: api.ViewportSize = {"width": width, "height": height}
        return Playground(
            browser.new_context(viewport=size, color_scheme=scheme, device_scale_factor=1), address
        ).open()

    for scheme, width, height in (("light", 1440, 900), ("dark", 360, 780)):
        play = opened(width, height, scheme)
        text(play, 60)
        play.page.evaluate("scrollTo(0, 0)")
        play.page.mouse.move(2, 2)
        if width > 1000:
            play.written.nth(9).hover()
            play.page.locator(".card:visible").wait_for()
        photograph(play.page, folder / f"playground_{scheme}_{width}.png")
        play.context.close()
    play = opened(1440, 900, "light")
    text(play, 16)  # so few that the pattern has room for their names
    play.tab("attention")
    play.page.locator("#attention-layer").select_option(index=LAYER)
    play.page.locator("#attention-head").select_option(index=HEAD + 1)
    play.page.wait_for_timeout(2500)
    play.written.nth(12).click()
    play.page.keyboard.press("Escape")
    play.page.mouse.move(2, 2)
    photograph(play.page, folder / "playground_attention.png")
    play.tab("compare")
    play.page.locator("#compare-max_tokens").fill("40")
    button = play.page.locator("#compare .main")
    button.click()
    play.page.wait_for_timeout(500)
    api.expect(button).to_have_text("Write both", timeout=120_000)
    photograph(play.page, folder / "playground_compare.png")
    play.tab("training")
    play.page.mouse.move(2, 2)
    play.page.wait_for_timeout(2500)
    photograph(play.page, folder / "playground_training.png")
    play.context.close()


def frames(play: Playground) -> Iterator[tuple[Image.Image, int]]:
    """The recording: pictures, and the milliseconds for which each is seen."""

    def shot(milliseconds: int) -> tuple[Image.Image, int]:
        picture = Image.open(io.BytesIO(play.page.screenshot())).convert("RGB")
        height = round(picture.height * WIDTH / picture.width)
        return picture.resize((WIDTH, height), Image.Resampling.LANCZOS), milliseconds

    def streams() -> Iterator[tuple[Image.Image, int]]:
        main = play.button("main")
        api.expect(main).to_have_text("Stop")
        while main.inner_text() == "Stop":
            yield shot(140)
        play.page.wait_for_timeout(600)
        yield shot(1400)

    play.prompt.fill(PROMPT)
    play.page.wait_for_timeout(800)
    yield shot(1200)
    play.button("main").click()
    yield from streams()
    for place in (5, 9):
        play.written.nth(place).hover()
        play.page.locator(".card:visible").wait_for()
        play.page.wait_for_timeout(150)
        yield shot(1100)
    other = play.page.locator(".card:visible [role=menuitem]:not(.chosen)").nth(1)
    other.hover()
    play.page.wait_for_timeout(150)
    yield shot(1000)
    other.click()
    yield from streams()
    play.page.mouse.move(2, 2)
    play.page.wait_for_timeout(400)
    yield shot(2200)


def recording(browser: "api.Browser", address: str, path: Path) -> None:
    """Writes the recording, in the best quality that stays below MOST_BYTES."""
    size: api.ViewportSize = {"width": FRAME[0], "height": FRAME[1]}
    play = Playground(browser.new_context(viewport=size, color_scheme="light"), address).open()
    play.page.locator("#temperature-number").fill("0.8")
    play.page.locator("#max_tokens-number").fill("28")
    taken = list(frames(play))
    play.context.close()
    first, *rest = [picture for picture, _ in taken]
    for quality in (80, 65, 50, 35, 20):
        durations = [milliseconds for _, milliseconds in taken]
        first.save(path, save_all=True, append_images=rest, duration=durations, loop=0, quality=quality, method=4)
        if path.stat().st_size < MOST_BYTES:
            break
    print(f"{path}: {len(taken)} frames, quality {quality}, {path.stat().st_size:,} bytes")


def main() -> None:
    """Takes all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", help="of the server, as in http://127.0.0.1:8000")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--only", choices=("pictures", "recording"))
    options = parser.parse_args()
    with api.sync_playwright() as playwright:
        path = chromium(playwright.chromium.executable_path, HOW)
        browser = playwright.chromium.launch(executable_path=path, args=[CLOSED])
        if options.only != "recording":
            pictures(browser, options.address.rstrip("/"), options.folder)
        if options.only != "pictures":
            recording(browser, options.address.rstrip("/"), options.folder / "playground.webp")
        browser.close()


if __name__ == "__main__":
    main()
