"""A student's desk for the tests: a folder as after `make run-all PROFILE=smoke`, `make lab` in it, and hands for the page."""
from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[2]
STUDENT_HAS = ("Makefile", "pyproject.toml", "constraints.txt", ".jupyter", "notebooks", "vaelite", "data_scripts")
FROM_A_MAKE_AROUND = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "PROFILE", "DATA", "RUN", "PYTHON", "LAB"}
START_S, OPEN_S, RUN_S = 120, 120, 600                       # patience: a busy machine is slow, a hang is for ever

# Each is one synchronous expression: Playwright would take the promise of an asynchronous one for true.
IDLE = """() => {
  const notebook = window.jupyterapp?.shell.currentWidget, session = notebook?.sessionContext;
  const kernel = session?.session?.kernel;
  return Boolean(notebook?.context?.isReady && session.isReady && kernel?.connectionStatus === "connected"
                 && kernel.status === "idle");
}"""
ALL_RUN = """() => {
  const notebook = window.jupyterapp.shell.currentWidget;
  const code = [...notebook.content.model.cells].filter(cell => cell.type === "code" && cell.sharedModel.getSource().trim());
  const failed = code.some(cell => cell.outputs.toJSON().some(output => output.output_type === "error"));
  return failed || (notebook.sessionContext.session.kernel.status === "idle" && code.every(cell => cell.executionCount > 0));
}"""
ERRORS = """() => [...window.jupyterapp.shell.currentWidget.content.model.cells].filter(cell => cell.type === "code")
  .flatMap(cell => cell.outputs.toJSON()).filter(output => output.output_type === "error")
  .map(output => `${output.ename}: ${output.evalue}`)"""


def lay_out(desk: Path, cohort: Path, finished: Path) -> Path:
    """A clone with its set-up, the phantom patients and a finished smoke run, where `make run-all PROFILE=smoke` has them."""
    for name in STUDENT_HAS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, desk / name)
    (desk / ".venv").symlink_to(sys.prefix)
    (desk / "data").mkdir()
    (desk / "data" / "phantom-smoke").symlink_to(cohort)
    shutil.copytree(finished, desk / "runs" / "phantom-smoke")
    for notebook in (desk / "runs").glob("*/notebooks/*.ipynb"):
        text = notebook.read_text().replace(str(finished), "runs/phantom-smoke").replace(str(cohort), "data/phantom-smoke")
        notebook.write_text(text)
    return desk


@contextmanager
def jupyterlab(desk: Path, target: str) -> Iterator[str]:
    """`make lab` or `make explore` in `desk`, on a free port -> the address it tells, token included."""
    options = f"--no-browser --ServerApp.port={free_port()} --ServerApp.port_retries=0 --LabApp.expose_app_in_browser=True"
    environment = {name: value for name, value in os.environ.items() if name not in FROM_A_MAKE_AROUND}
    log = desk / f"{target}.log"
    with log.open("w") as stream:                            # -o: nothing is installed, even if a file is newer
        server = subprocess.Popen(["make", "-o", ".venv/ready", target, f"LAB={options}"], cwd=desk, env=environment,
                                  stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield told_address(server, log)
    finally:
        os.killpg(server.pid, signal.SIGTERM)                # make and JupyterLab, which stops its kernels
        server.wait(60)


def told_address(server: subprocess.Popen, log: Path) -> str:
    until = time.monotonic() + START_S
    while time.monotonic() < until and server.poll() is None:
        if told := re.search(r"http://127\.0\.0\.1:\d+/\S*\?token=\w+", log.read_text()):
            return told[0]
        time.sleep(0.2)
    raise AssertionError(f"JupyterLab told no address:\n{log.read_text()[-3000:]}")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def double_click(page: Page, file: str) -> None:
    """Open a file of the folder the file browser shows, and wait for its kernel."""
    page.locator(".jp-DirListing-item", has_text=file).dblclick(timeout=OPEN_S * 1000)
    opened = f"() => window.jupyterapp?.shell.currentWidget?.context?.path.endsWith('{file}')"
    page.wait_for_function(opened, timeout=OPEN_S * 1000)
    page.wait_for_function(IDLE, timeout=OPEN_S * 1000)


def set_parameters(page: Page, parameters: Mapping[str, str]) -> None:
    """Write over the first code cell, as a student does who wants another profile."""
    page.locator(".jp-Notebook:visible .jp-CodeCell .cm-content").first.click()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.insert_text("\n".join(f'{name} = "{value}"' for name, value in parameters.items()))


def run_all(page: Page) -> None:
    """Run > Run All Cells by mouse, and wait until every cell has run or one has failed."""
    page.locator(".lm-MenuBar-item", has_text="Run").click()
    page.locator(".lm-Menu-item", has_text=re.compile("^Run All Cells$")).click()
    page.wait_for_function(ALL_RUN, timeout=RUN_S * 1000)
