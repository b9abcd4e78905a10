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

from playwright.sync_api import Locator, Page

ROOT = Path(__file__).resolve().parents[2]
STUDENT_HAS = ("Makefile", "pyproject.toml", "constraints.txt", ".jupyter", "notebooks", "vaelite", "data_scripts",
               "tests/benchmarks/results")                  # the comparisons that lesson 03 reads
FROM_A_MAKE_AROUND = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "PROFILE", "DATA", "RUN", "PYTHON", "LAB"}
CONTROLS = "[role=slider], select, input[type=checkbox], input[type=radio]"
START_S, OPEN_S, RUN_S = 120, 120, 1800                      # patience: a busy machine is slow, a hang is for ever

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
LIVE_OUTPUTS = """() => [...window.jupyterapp.shell.currentWidget.content.model.cells].filter(cell => cell.type === "code")
  .flatMap(cell => cell.outputs.toJSON()).filter(o => o.data?.["application/vnd.jupyter.widget-view+json"]).length"""
ERRORS = """() => [...window.jupyterapp.shell.currentWidget.content.model.cells].filter(cell => cell.type === "code")
  .flatMap(cell => cell.outputs.toJSON()).filter(output => output.output_type === "error")
  .map(output => `${output.ename}: ${output.evalue}`)"""


def lay_out(desk: Path, cohort: Path, finished: Path) -> Path:
    """A clone with its set-up, patients and a finished run of them, where `make run-all` would have put them."""
    for name in STUDENT_HAS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, desk / name)
    (desk / ".venv").symlink_to(sys.prefix)
    (desk / "data").mkdir()
    (desk / "data" / cohort.name).symlink_to(cohort)
    shutil.copytree(finished, desk / "runs" / finished.name)
    for notebook in (desk / "runs").glob("*/notebooks/*.ipynb"):
        text = notebook.read_text().replace(str(finished), f"runs/{finished.name}").replace(str(cohort), f"data/{cohort.name}")
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


def run_lesson(page: Page, address: str, name: str, parameters: Mapping[str, str]) -> None:
    """A double click on the lesson's .py in the file browser, these parameters typed in, and Run All Cells."""
    page.goto(address.replace("/tree/notebooks/01_vae.py?", "/tree/notebooks?reset&"))
    double_click(page, f"{name}.py")
    set_parameters(page, parameters)
    run_all(page)


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


def explorers(page: Page) -> list[Locator]:
    """The explorers of the open lesson, once each panel of it shows its first picture."""
    drawn = ".vaelite-panel:has(img[alt], .js-plotly-plot)"
    page.wait_for_function(f"document.querySelectorAll('{drawn}').length === ({LIVE_OUTPUTS})()", timeout=OPEN_S * 1000)
    for picture in page.locator(f"{drawn} img[alt]").all():
        picture.evaluate("picture => picture.decode()")      # else its loading could be taken for an answer to a key
    return page.locator(".vaelite-explorer").all()


def key_that_moves(control: Locator) -> str:
    """The arrow that leads away from the end at which the control stands; the space bar for a box."""
    kind, at_its_end = control.evaluate("""control => [control.role || control.type, control.role === "slider"
      ? control.ariaValueNow === control.ariaValueMax : control.selectedIndex === control.options?.length - 1]""")
    return {"slider": ("ArrowRight", "ArrowLeft"), "select-one": ("ArrowDown", "ArrowUp")}.get(kind, ("Space",) * 2)[at_its_end]
