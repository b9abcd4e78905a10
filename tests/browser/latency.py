"""How long a student waits for a picture: every explorer in the browser, key pressed -> new picture on the screen.

    python tests/browser/latency.py RUN DATA [--lessons 01_vae ...] [--rounds 3] [--pause-ms 300]

RUN is a finished run of the patients in DATA. Each control is moved step by step to its other end, in each round back again;
as the other controls then stand elsewhere, most pictures are new. --pause-ms: how long one looks before the next key, time in
which an explorer draws the next picture ahead. No test: the numbers are those of the machine.
"""
from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import chromium
import numpy as np
from lab import CONTROLS, explorers, jupyterlab, key_that_moves, lay_out, run_lesson
from playwright.sync_api import Locator, Page

from vaelite.runs import open_run

LESSONS = sorted(path.stem for path in (Path(__file__).parents[2] / "notebooks").glob("*.py"))
MOST_STEPS = 10                                              # of one control in one round
PATIENCE_MS = 30_000
POSITION = "control => control.ariaValueNow ?? control.selectedIndex ?? control.checked"
# Two frames after the new picture has loaded it is on the screen.
WATCH = """(picture, patience) => {
  let pressed;
  const panel = picture.closest(".vaelite-explorer");
  panel.addEventListener("keydown", () => { pressed = performance.now(); }, { capture: true, once: true });
  window.waited = new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error("no new picture")), patience);
    picture.addEventListener("load", () => requestAnimationFrame(() => requestAnimationFrame(
      () => resolve(performance.now() - pressed))), { once: true });
  });
}"""


def waits_ms(page: Page, picture: Locator, control: Locator, pause_ms: float) -> Iterator[float]:
    """Move one control towards its other end: the wait for each picture [ms]."""
    key = key_that_moves(control)
    control.focus()
    for _ in range(1 if key == "Space" else MOST_STEPS):
        before = control.evaluate(POSITION)
        picture.evaluate(WATCH, PATIENCE_MS)
        page.keyboard.press(key)
        if control.evaluate(POSITION) == before:
            return                                           # it stands at its end
        yield page.evaluate("() => window.waited")
        page.wait_for_timeout(pause_ms)


def label(control: Locator) -> str:
    return control.evaluate("""control => control.ariaLabel ||
      (control.closest("label") ?? control.closest(".widget-inline-hbox").querySelector(".widget-label")).innerText.trim()""")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--lessons", nargs="+", default=LESSONS, choices=LESSONS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pause-ms", type=float, default=300)
    args = parser.parse_args()
    run, data = args.run.resolve(), args.data.resolve()
    parameters = {"profile_name": open_run(run).stages["vae"]["config"]["profile"], "data_dir": f"data/{data.name}",
                  "run_dir": f"runs/{run.name}"}
    path = chromium.find() or parser.error(chromium.MISSING)
    print("| lesson | explorer | control | n | median [ms] | 90th percentile [ms] |", "|---|---|---|---|---|---|", sep="\n")
    with tempfile.TemporaryDirectory() as folder, jupyterlab(lay_out(Path(folder), data, run), "lab") as address, \
            chromium.launch(path) as browser:
        for name in args.lessons:
            page = browser.new_page(viewport={"width": 1400, "height": 1000})
            run_lesson(page, address, name, parameters)
            for number, panel in enumerate(explorers(page), 1):
                panel.scroll_into_view_if_needed()
                controls, picture = panel.locator(CONTROLS).all(), panel.locator("img")
                named = {label(control): control for control in controls}    # once: a name is not there while it is drawn anew
                waits = {text: [] for text in named}
                for _ in range(args.rounds):
                    for text, control in named.items():
                        waits[text] += waits_ms(page, picture, control, args.pause_ms)
                for control, ms in (waits | {"all": sum(waits.values(), [])}).items():
                    print(f"| {name} | {number} | {control} | {len(ms)} | {np.median(ms):.0f} | {np.quantile(ms, 0.9):.0f} |",
                          flush=True)
            page.evaluate("() => window.jupyterapp.serviceManager.sessions.shutdownAll()")
            page.close()


if __name__ == "__main__":
    main()
