"""What a student does, in a real browser: `make lab`, a double click, Run All, and every explorer by keyboard and mouse.

Left in build/browser/: a screenshot of each explorer and axe-*.json. How fast the explorers answer: latency.py.
"""
from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import chromium
import pytest
from axe_playwright_python.sync_playwright import Axe
from lab import CONTROLS, ERRORS, IDLE, OPEN_S, ROOT, explorers, jupyterlab, key_that_moves, lay_out, run_lesson
from playwright.sync_api import Browser, Locator, Page, expect

BROWSER = chromium.find() or pytest.skip(chromium.MISSING, allow_module_level=True)    # one line for all of them
LESSONS = ("01_vae", "02_latent_mapper", "03_decoder_finetune", "04_eval_dosimetry")
SMOKE = {"profile_name": "smoke", "data_dir": "data/phantom-smoke", "run_dir": "runs/phantom-smoke"}
ARTEFACTS = ROOT / "build" / "browser"
DRAWN_S = 60                                                 # patience for one picture
DIGEST = """async picture => {
  const bytes = await crypto.subtle.digest("SHA-256", await (await fetch(picture.src)).arrayBuffer());
  return [...new Uint8Array(bytes)].map(byte => byte.toString(16).padStart(2, "0")).join("");
}"""
CODE_CELLS = """() => [...window.jupyterapp.shell.currentWidget.content.model.cells]
  .filter(cell => cell.type === "code").length"""
EYE = "plot => plot._fullLayout.scene.camera.eye.x"         # where the viewer of a cloud stands
CLICKABLE = "img[style*=crosshair]"                          # a picture that takes clicks
PLACES = ((0.25, 0.35), (0.13, 0.4), (0.2, 0.25))            # of a click, fractions of the picture: in its first panel


@pytest.fixture(scope="module")                              # Playwright keeps an event loop running: closed before other tests
def browser():
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    with chromium.launch(BROWSER) as started:
        yield started


@pytest.fixture(scope="module")
def desk(browser, cohort, finished, tmp_path_factory) -> Path:
    return lay_out(tmp_path_factory.mktemp("desk"), cohort, finished)


@pytest.fixture(scope="module")
def address(desk):
    with jupyterlab(desk, "lab") as told:
        yield told


@contextmanager
def watched_page(browser: Browser) -> Iterator[Page]:
    """A page that notes what it asks of other computers (`foreign`) and what it complains about (`complaints`)."""
    page = browser.new_context(viewport={"width": 1400, "height": 1000}).new_page()
    page.foreign, page.complaints = [], []
    page.on("request", lambda request: None if is_local(request.url) else page.foreign.append(request.url))
    page.on("websocket", lambda channel: None if is_local(channel.url) else page.foreign.append(channel.url))
    page.on("console", lambda said: page.complaints.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    yield page
    page.context.close()                                     # also after a failure: two open pages would save over each other


@pytest.fixture
def page(browser):
    with watched_page(browser) as opened:
        yield opened


def is_local(url: str) -> bool:
    return urlsplit(url).scheme in ("data", "blob") or urlsplit(url).hostname == "127.0.0.1"


@pytest.fixture(scope="module", params=LESSONS)
def lesson(request, browser, address):
    """The page of one lesson that was run on the finished run: what is trained stays."""
    with watched_page(browser) as page:
        page.lesson = request.param
        run_lesson(page, address, page.lesson, SMOKE)
        yield page
        page.evaluate("() => window.jupyterapp.serviceManager.sessions.shutdownAll()")    # one kernel's memory at a time


def changes(picture: Locator, before: str, seconds: float = DRAWN_S) -> bool:
    """Whether the picture becomes another one in time."""
    for _ in range(round(seconds * 10)):
        if picture.evaluate(DIGEST) != before:
            return True
        picture.page.wait_for_timeout(100)
    return False


def test_the_first_lesson_opens_as_a_notebook_and_only_here(page, address):
    page.goto(address)
    page.wait_for_function(IDLE, timeout=OPEN_S * 1000)
    assert page.locator(".jp-NotebookPanel:visible h1").inner_text().startswith("01")
    assert page.evaluate(CODE_CELLS) > 20
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


def test_every_control_moves_its_picture_by_keyboard(lesson):
    for number, panel in enumerate(explorers(lesson), 1):
        panel.scroll_into_view_if_needed()
        picture, controls = panel.locator("img"), panel.locator(CONTROLS).all()
        assert 1 <= len(controls) <= 4
        for place, control in enumerate(controls, 1):
            before, key = picture.evaluate(DIGEST), key_that_moves(control)
            control.focus()
            lesson.keyboard.press(key)
            assert changes(picture, before), f"explorer {number}, control {place}, {key}"
        panel.scroll_into_view_if_needed()
        lesson.screenshot(path=ARTEFACTS / f"{lesson.lesson}-explorer-{number}.png")


def test_every_control_moves_its_picture_by_mouse(lesson):
    for number, panel in enumerate(explorers(lesson), 1):
        panel.scroll_into_view_if_needed()
        picture = panel.locator("img")
        for place, control in enumerate(panel.locator(CONTROLS).all(), 1):
            before = picture.evaluate(DIGEST)
            if control.get_attribute("role") == "slider":
                drag_to_the_far_half(control)
            elif control.get_attribute("type") == "checkbox":
                control.click()
            else:                                            # the list it unfolds is drawn by the system, outside the page
                options = control.locator("option").count()
                control.select_option(index=(control.evaluate("control => control.selectedIndex") + 1) % options)
            assert changes(picture, before), f"explorer {number}, control {place}"
        assert panel.get_by_role("alert").count() == 0


def test_a_click_into_a_picture_moves_it(lesson):
    explorers(lesson)
    for picture in lesson.locator(CLICKABLE).all():
        picture.scroll_into_view_if_needed()
        before, size = picture.evaluate(DIGEST), picture.bounding_box()
        for x, y in PLACES:                                  # one of them may be the place that is shown
            picture.click(position={"x": x * size["width"], "y": y * size["height"]})
            if changes(picture, before, DRAWN_S / len(PLACES)):
                break
        assert picture.evaluate(DIGEST) != before


def test_the_cloud_turns_by_keyboard(lesson):
    clouds = lesson.locator(".vaelite-cloud").all()
    assert len(clouds) == (lesson.lesson == "01_vae")
    for cloud in clouds:
        cloud.scroll_into_view_if_needed()
        eye = cloud.locator(".js-plotly-plot").evaluate(EYE)
        cloud.locator(CONTROLS).focus()
        lesson.keyboard.press("ArrowRight")
        drawn = "document.querySelector('.vaelite-cloud .js-plotly-plot')"
        lesson.wait_for_function(f"before => ({EYE})({drawn}) !== before", arg=eye)
        lesson.screenshot(path=ARTEFACTS / f"{lesson.lesson}-cloud.png")


def test_a_reader_answers_one_picture_by_keyboard_and_one_by_mouse(lesson):
    explorers(lesson)
    forms = lesson.locator(".vaelite-panel:has(.widget-toggle-buttons)").all()
    assert len(forms) == (lesson.lesson == "04_eval_dosimetry")
    for form in forms:
        turn, questions = form.get_by_role("button", name="Next picture"), form.locator(".widget-toggle-buttons").all()
        for choose in (lambda answer: tab_to(answer, "Space"), lambda answer: answer.click()):
            before = form.locator("img").evaluate(DIGEST)
            form.locator("button:enabled").first.focus()
            for question in questions:
                assert turn.is_disabled(), "a question is open"
                choose(question.locator("button").nth(1))
                expect(question.locator("button").nth(1)).to_have_class(re.compile("mod-active"))
            expect(form.get_by_role("status")).to_contain_text(f"0 of {len(questions)} questions open")
            lesson.screenshot(path=ARTEFACTS / "reader-form.png")
            choose(turn)
            assert changes(form.locator("img"), before)
        assert form.get_by_role("alert").count() == 0


def tab_to(button: Locator, key: str) -> None:
    """Press Tab until the button has the focus, then the key."""
    for _ in range(20):
        if button.evaluate("button => button === document.activeElement"):
            break
        button.page.keyboard.press("Tab")
    button.page.keyboard.press(key)


def drag_to_the_far_half(handle: Locator) -> None:
    handle.hover()                                           # scrolls there and waits until it stands still
    track = handle.locator("xpath=ancestor::*[contains(@class, 'noUi-target')]").bounding_box()
    start = handle.bounding_box()
    x, y = start["x"] + start["width"] / 2, start["y"] + start["height"] / 2
    share = 0.25 if x > track["x"] + track["width"] / 2 else 0.75
    mouse = handle.page.mouse
    mouse.down()
    mouse.move(track["x"] + share * track["width"], y)       # at once: each step between would draw a picture of its own
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


def test_explore_opens_the_newest_run_with_its_pictures(page, desk):
    with jupyterlab(desk, "explore") as told:
        page.goto(told)
        # Lab names the folder first and the lesson once it is in front.
        page.wait_for_url(re.compile(r"runs/phantom-smoke/notebooks/01_vae\.ipynb"), timeout=OPEN_S * 1000)
        page.wait_for_function(IDLE, timeout=OPEN_S * 1000)
        still = page.get_by_text("A picture at rest").first
        still.scroll_into_view_if_needed()
        assert still.is_visible()
        page.screenshot(path=ARTEFACTS / "make-explore.png")
        assert page.foreign == [] and page.complaints == []
