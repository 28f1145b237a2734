"""Prints how soon the playground can be used: the median of five loads, never asserted.

python tests/browser/load_time.py http://127.0.0.1:8000
"""

import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
from browser.conftest import chromium  # noqa: E402
from browser.guard import CLOSED, HOW, api  # noqa: E402

LOADS = 5
# Runs before the page's own scripts: notes when the button Write can first be pressed.
WATCH = """
const look = () => {
  const main = document.querySelector('#text [data-name=main]');
  if (main && !main.disabled) window.ready = performance.now();
  else requestAnimationFrame(look);
};
look();
"""


def main() -> None:
    """Loads the page anew, in a context without a cache each time."""
    with api.sync_playwright() as playwright:
        path = chromium(playwright.chromium.executable_path, HOW)
        browser = playwright.chromium.launch(executable_path=path, args=[CLOSED])
        found = []
        for _ in range(LOADS):
            context = browser.new_context()
            context.add_init_script(WATCH)
            page = context.new_page()
            page.goto(sys.argv[1])
            while (ready := page.evaluate("window.ready ?? 0")) == 0:
                page.wait_for_timeout(20)
            found.append(ready)
            context.close()
        browser.close()
    print(f"interactive after {statistics.median(found):.0f} ms (median of {LOADS}: {sorted(map(round, found))})")


if __name__ == "__main__":
    main()
