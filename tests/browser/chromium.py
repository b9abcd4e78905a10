"""The browser these tests drive: one the computer has, else Playwright's own, else one that can be installed now.

python tests/browser/chromium.py    installs one if there is none, and says which is used or how to get one
"""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
MAC = tuple(f"/Applications/{name}.app/Contents/MacOS/{name}" for name in ("Google Chrome", "Chromium", "Microsoft Edge"))
MISSING = ("No browser: there is no Chromium or Chrome here and none could be installed, so NO lesson was opened in "
           "JupyterLab. Install one (Debian: apt install chromium; elsewhere: .venv/bin/playwright install chromium) "
           "and run make test again.")
PATIENCE_S = 300                                             # for one way of installing
FLAGS = ["--headless=new", "--disable-gpu", "--enable-unsafe-swiftshader", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]


def find() -> str | None:
    """The first browser that starts; CHROMIUM=/path/to/one in the environment goes before all others."""
    here = next(filter(starts, (os.environ.get("CHROMIUM"), *map(shutil.which, NAMES), *MAC)), None)
    if here:
        return here
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if starts(own) else None


def starts(path: str | None) -> bool:
    """Whether it tells its version: a download without its libraries, or a mere pointer to a snap, does not."""
    return bool(path) and Path(path).exists() and subprocess.run([path, "--version"], capture_output=True).returncode == 0


def install() -> None:
    """Try the ways of this computer until a browser starts. Whatever goes wrong is told by `find` being None after it."""
    ways = [[sys.executable, "-m", "playwright", "install", "--no-shell", "chromium"]]
    if shutil.which("apt-get") and os.geteuid() == 0:        # first: Debian's package brings the libraries along
        ways.insert(0, ["sh", "-c", "apt-get update && apt-get install -y --no-install-recommends chromium fonts-liberation"])
    for way in ways:
        print(f"No browser to test the lessons with: trying {' '.join(way)} ...", flush=True)
        try:
            subprocess.run(way, capture_output=True, timeout=PATIENCE_S, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
        except subprocess.TimeoutExpired:
            pass
        if find():
            return


@contextmanager
def launch(path: str) -> Iterator[Browser]:
    """This browser, without a screen and without any other computer than this one."""
    with sync_playwright() as playwright:
        flags = FLAGS + ["--no-sandbox"] * (os.geteuid() == 0)    # Chromium's sandbox refuses to start as root
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


if __name__ == "__main__":
    if not find():
        install()
    print(f"Browser tests: {find() or MISSING}")
