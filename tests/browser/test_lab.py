"""What a student does, in a real browser: `make lab`, a double click, Run All, and every explorer by keyboard and mouse.

Left in build/browser/: a screenshot of each explorer, latency.json (key pressed -> picture drawn) and axe-*.json.
"""
from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import chromium
import pytest
from axe_playwright_python.sync_playwright import Axe
from lab import ERRORS, IDLE, OPEN_S, ROOT, double_click, jupyterlab, lay_out, run_all, set_parameters
from playwright.sync_api import Browser, Locator, Page, sync_playwright

LESSONS = ("01_vae", "02_latent_mapper", "03_decoder_finetune", "04_eval_dosimetry")
SMOKE = {"profile_name": "smoke", "data_dir": "data/phantom-smoke", "run_dir": "runs/phantom-smoke"}
ARTEFACTS = ROOT / "build" / "browser"
FLAGS = ["--headless=new", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
CONTROLS = "[role=slider], select, input[type=checkbox], input[type=radio]"
DRAWN_S = 30                                                 # patience for one picture
MOST_STEPS = 6                                               # timed steps a control

PICTURE = "img"
POSITION = "control => control.ariaValueNow ?? control.selectedIndex ?? control.checked"
DIGEST = """async picture => {
  const bytes = await crypto.subtle.digest("SHA-256", await (await fetch(picture.src)).arrayBuffer());
  return [...new Uint8Array(bytes)].map(byte => byte.toString(16).padStart(2, "0")).join("");
}"""
# Two frames after the new picture has loaded it is on the screen.
WATCH = """picture => {
  window.drawn = [];
  let pressed = 0;
  picture.closest(".vaelite-explorer").addEventListener("keydown", () => { pressed = performance.now(); }, true);
  picture.addEventListener("load", () => requestAnimationFrame(() => requestAnimationFrame(
    () => window.drawn.push(performance.now() - pressed))));
}"""
LIVE_OUTPUTS = """() => [...window.jupyterapp.shell.currentWidget.content.model.cells].filter(cell => cell.type === "code")
  .flatMap(cell => cell.outputs.toJSON()).filter(o => o.data?.["application/vnd.jupyter.widget-view+json"]).length"""
CROSSHAIR = "img[style*=crosshair]"                          # a picture that takes clicks


@pytest.fixture(scope="session")
def browser():
    path = chromium.find()
    if not path:
        pytest.skip(chromium.MISSING)
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        flags = FLAGS + ["--no-sandbox"] * (os.geteuid() == 0)    # Chromium's sandbox refuses to start as root
        started = playwright.chromium.launch(executable_path=path, args=flags)
        yield started
        started.close()


@pytest.fixture(scope="session")
def desk(browser, cohort, finished, tmp_path_factory) -> Path:
    return lay_out(tmp_path_factory.mktemp("desk"), cohort, finished)


@pytest.fixture(scope="session")
def address(desk):
    with jupyterlab(desk, "lab") as told:
        yield told


def watched_page(browser: Browser) -> Page:
    """A page that notes what it asks of other computers (`foreign`) and what it complains about (`complaints`)."""
    page = browser.new_context(viewport={"width": 1400, "height": 1000}).new_page()
    page.foreign, page.complaints = [], []
    page.on("request", lambda request: None if is_local(request.url) else page.foreign.append(request.url))
    page.on("websocket", lambda channel: None if is_local(channel.url) else page.foreign.append(channel.url))
    page.on("console", lambda said: page.complaints.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    return page


def is_local(url: str) -> bool:
    return urlsplit(url).scheme in ("data", "blob") or urlsplit(url).hostname == "127.0.0.1"


@pytest.fixture(scope="module", params=LESSONS)
def lesson(request, browser, address):
    """The page of one lesson after a double click on its .py, the smoke profile typed in, and Run All Cells."""
    page = watched_page(browser)
    page.lesson = request.param
    page.goto(address.replace("/tree/notebooks/01_vae.py?", "/tree/notebooks?reset&"))
    double_click(page, f"{page.lesson}.py")
    set_parameters(page, SMOKE)
    run_all(page)
    yield page
    page.evaluate("() => window.jupyterapp.serviceManager.sessions.shutdownAll()")    # one kernel's memory at a time
    page.context.close()


def explorers(page: Page) -> list[Locator]:
    page.wait_for_function(f"document.querySelectorAll('.vaelite-panel:has(img[alt])').length === ({LIVE_OUTPUTS})()")
    return page.locator(".vaelite-explorer").all()


def key_that_moves(control: Locator) -> str:
    """The arrow that leads away from the end at which the control stands; the space bar for a box."""
    kind, at_its_end = control.evaluate("""control => [control.role || control.type, control.role === "slider"
      ? control.ariaValueNow === control.ariaValueMax : control.selectedIndex === control.options?.length - 1]""")
    return {"slider": ("ArrowRight", "ArrowLeft"), "select-one": ("ArrowDown", "ArrowUp")}.get(kind, ("Space",) * 2)[at_its_end]


def wait_for_another(picture: Locator, before: str) -> None:
    for _ in range(DRAWN_S * 10):
        if picture.evaluate(DIGEST) != before:
            return
        picture.page.wait_for_timeout(100)
    raise AssertionError("the picture did not change")


def test_the_first_lesson_opens_as_a_notebook_and_only_here(browser, address):
    page = watched_page(browser)
    page.goto(address)
    page.wait_for_function(IDLE, timeout=OPEN_S * 1000)
    assert page.locator(".jp-NotebookPanel:visible h1").inner_text().startswith("01")
    assert page.locator(".jp-NotebookPanel:visible .jp-CodeCell").count() > 20
    page.context.close()
    port = urlsplit(address).port
    with pytest.raises(urllib.error.HTTPError, match="403"):     # without the token
        urllib.request.urlopen(f"http://127.0.0.1:{port}/api/contents")
    with pytest.raises(ConnectionRefusedError):                  # a server for everyone would answer here too
        socket.create_connection(("127.0.0.2", port), timeout=5)


def test_an_empty_token_is_refused(browser, desk):
    refused = subprocess.run(["make", "-o", ".venv/ready", "lab", "LAB=--no-browser"], cwd=desk, capture_output=True, text=True,
                             env=os.environ | {"JUPYTER_TOKEN": "", "MAKEFLAGS": ""}, timeout=OPEN_S)
    assert refused.returncode != 0 and "JUPYTER_TOKEN is empty" in refused.stderr


def test_every_cell_runs_without_an_error(lesson):
    assert lesson.evaluate(ERRORS) == []


def test_every_control_moves_its_picture_by_keyboard(lesson, latencies):
    for number, panel in enumerate(explorers(lesson), 1):
        panel.scroll_into_view_if_needed()
        picture, controls = panel.locator(PICTURE), panel.locator(CONTROLS).all()
        assert 1 <= len(controls) <= 4
        picture.evaluate(WATCH)
        drawn = 0
        for control in controls:
            before, key = picture.evaluate(DIGEST), key_that_moves(control)
            control.focus()
            for _ in range(1 if key == "Space" else MOST_STEPS):
                position = control.evaluate(POSITION)
                lesson.keyboard.press(key)
                if control.evaluate(POSITION) == position:
                    break                                    # it stands at its other end
                drawn += 1
                lesson.wait_for_function("drawn => window.drawn.length >= drawn", arg=drawn, timeout=DRAWN_S * 1000)
            assert picture.evaluate(DIGEST) != before
        latencies[f"{lesson.lesson} explorer {number}"] = [round(ms) for ms in lesson.evaluate("window.drawn")]
        panel.scroll_into_view_if_needed()
        lesson.screenshot(path=ARTEFACTS / f"{lesson.lesson}-explorer-{number}.png")


def test_sliders_and_boxes_move_their_picture_by_mouse(lesson):
    for panel in explorers(lesson):
        panel.scroll_into_view_if_needed()
        picture = panel.locator(PICTURE)
        for control in panel.locator(CONTROLS).all():
            before = picture.evaluate(DIGEST)
            if control.get_attribute("type") == "checkbox":
                control.click()
            elif control.get_attribute("role") == "slider":
                drag_to_the_far_half(control)
            else:                                            # the list a <select> unfolds is no part of a headless page
                continue
            wait_for_another(picture, before)
            lesson.wait_for_function(IDLE)
        assert panel.get_by_role("alert").count() == 0


def drag_to_the_far_half(handle: Locator) -> None:
    track = handle.locator("xpath=ancestor::*[contains(@class, 'noUi-target')]").bounding_box()
    start = handle.bounding_box()
    x, y = start["x"] + start["width"] / 2, start["y"] + start["height"] / 2
    share = 0.25 if x > track["x"] + track["width"] / 2 else 0.75
    mouse = handle.page.mouse
    mouse.move(x, y)
    mouse.down()
    mouse.move(track["x"] + share * track["width"], y, steps=3)
    mouse.up()


def test_explorers_are_accessible(lesson):
    explorers(lesson)
    found = Axe().run(lesson, context=".vaelite-panel").response
    (ARTEFACTS / f"axe-{lesson.lesson}.json").write_text(json.dumps(found["violations"], indent=1))
    grave = [f"{rule['id']}: {node['html']}" for rule in found["violations"] for node in rule["nodes"]
             if rule["impact"] in ("serious", "critical")]
    assert found["passes"] and grave == []


def test_nothing_is_asked_of_another_computer_and_nothing_complains(lesson):
    assert lesson.foreign == []
    assert lesson.complaints == []


def test_explore_opens_the_newest_run_with_its_pictures(browser, desk):
    page = watched_page(browser)
    with jupyterlab(desk, "explore") as told:
        page.goto(told)
        page.wait_for_function(IDLE, timeout=OPEN_S * 1000)
        assert urlsplit(page.url).path.endswith("runs/phantom-smoke/notebooks/01_vae.ipynb")
        still = page.get_by_text("A picture at rest").first
        still.scroll_into_view_if_needed()
        assert still.is_visible()
        page.screenshot(path=ARTEFACTS / "make-explore.png")
        assert page.foreign == [] and page.complaints == []
        page.context.close()


@pytest.fixture(scope="session")
def latencies(request):
    """Milliseconds from a key to its picture, by explorer; told and written at the end, never judged."""
    seen: dict[str, list[int]] = {}
    yield seen
    table = {name: {"median_ms": statistics.median(times), "ms": times} for name, times in seen.items()}
    (ARTEFACTS / "latency.json").write_text(json.dumps(table, indent=1))
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\nKey pressed -> picture drawn, median:",
              ", ".join(f"{name} {row['median_ms']:.0f} ms" for name, row in table.items()))
