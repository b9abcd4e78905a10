"""Explorers: the first picture is drawn in the open, both ends of every control are tried, no error stays silent."""

from __future__ import annotations

import asyncio
import base64

import ipywidgets as widgets
import nbformat
import pytest
from matplotlib.figure import Figure

from vaelite.errors import VaeliteError
from vaelite.explore.panel import MOST_CACHED, PAGE_NOTE, PAUSE_S, Picture, beyond, ends, explore, show_source
from vaelite.notebooks import run_notebooks

PNG = b"\x89PNG"


class Drawing:
    """A drawing function that remembers its calls and refuses some values."""

    def __init__(self, refused=()):
        self.refused, self.calls = refused, []

    def __call__(self, **values):
        self.calls.append(values)
        if set(values.values()) & set(self.refused):
            raise ArithmeticError(f"no picture for <{values}>")
        figure = Figure(figsize=(1, 1))
        figure.suptitle(str(values))
        return figure


def control_of(panel, kind):
    return next(child for child in panel.children if isinstance(child, kind))


def test_the_picture_changes_when_a_control_moves():
    panel = explore(Drawing(), depth=widgets.IntSlider(1, 0, 5))
    before = control_of(panel, Picture).value
    control_of(panel, widgets.IntSlider).value = 4
    assert control_of(panel, Picture).value != before
    assert bytes(before).startswith(PNG)


def test_a_page_without_a_kernel_shows_the_first_picture():
    panel = explore(Drawing(), "How deep?", depth=range(5))
    bundle = panel._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]).startswith(PNG)
    assert bundle["text/plain"] == "How deep?"
    assert "application/vnd.jupyter.widget-view+json" in bundle, "JupyterLab prefers the live widget"


def test_the_question_on_a_page_is_text():
    page = explore(Drawing(), 'Is a < "b"?', depth=range(5))._repr_mimebundle_()["text/html"]
    assert page.count("Is a &lt; &quot;b&quot;?") == 2 and 'Is a <' not in page, "below the picture and read for it"


def test_both_ends_of_each_control_are_drawn_when_it_is_built():
    draw = Drawing()
    depth = widgets.FloatSlider(0.5, min=-2, max=3)
    explore(draw, depth=depth, target=["CT", "T1c", "T2w"], bone=widgets.Checkbox(False))
    assert {values["depth"] for values in draw.calls} == {-2, 0.5, 3}
    assert {values["target"] for values in draw.calls} == {"CT", "T2w"}
    assert {values["bone"] for values in draw.calls} == {False, True}


@pytest.mark.parametrize("refused", [2, 0, 5], ids=["start", "minimum", "maximum"])
def test_a_position_that_fails_raises_when_the_explorer_is_built(refused):
    with pytest.raises(ArithmeticError):
        explore(Drawing([refused]), depth=widgets.IntSlider(2, 0, 5))


def test_without_check_only_the_start_is_drawn():
    draw = Drawing()
    explore(draw, check=False, depth=widgets.IntSlider(2, 0, 5))
    assert draw.calls == [{"depth": 2}]


def test_a_later_error_is_shown_in_the_panel_and_raised_and_goes_away_again():
    panel = explore(Drawing([3]), depth=widgets.IntSlider(2, 0, 5))
    slider = control_of(panel, widgets.IntSlider)
    with pytest.raises(ArithmeticError):
        slider.value = 3
    problem = panel.children[-2]
    assert "ArithmeticError" in problem.value and 'role="alert"' in problem.value
    assert "&lt;" in problem.value, "text from an error is no HTML"
    slider.value = 4
    assert problem.value == ""


def test_a_picture_is_drawn_once_and_the_memory_is_bounded():
    draw = Drawing()
    panel = explore(draw, check=False, depth=widgets.IntSlider(0, 0, 1000))
    slider = control_of(panel, widgets.IntSlider)
    slider.value = 1
    slider.value = 0
    assert len(draw.calls) == 2, "position 0 was there already"
    for depth in range(2, MOST_CACHED + 3):
        slider.value = depth
    slider.value = 0
    assert draw.calls[-1] == {"depth": 0}, "the oldest picture was dropped"


def test_the_next_position_is_drawn_while_one_looks():
    drawn = []
    slider = widgets.IntSlider(3, 0, 9)

    def draw(x):
        drawn.append(x)
        return Figure()

    async def step_on():
        explore(draw, check=False, x=slider)
        slider.value = 4
        await asyncio.sleep(4 * PAUSE_S)
        before = list(drawn)
        slider.value = 5
        return before

    before = asyncio.run(step_on())
    assert before == [3, 4, 5] and drawn == before, "5 was there when it was asked for"


@pytest.mark.parametrize(("control", "old", "new", "further"), [
    (widgets.IntSlider(0, 0, 9, 3), 0, 3, [6]), (widgets.IntSlider(0, 0, 9, 3), 9, 6, [3]), (widgets.IntSlider(0, 0, 9), 8, 9, []),
    (widgets.Dropdown(options=["a", "b", "c"]), "a", "b", ["c"]), (widgets.Dropdown(options=["a", "b", "c"]), "b", "a", []),
    (widgets.SelectionSlider(options=[("low", 1), ("high", 2)]), 2, 1, []), (widgets.Checkbox(), False, True, []),
    (widgets.IntRangeSlider(), (0, 5), (1, 5), [])])
def test_one_step_further_stays_within_the_control(control, old, new, further):
    assert beyond(control, old, new) == further


def test_every_control_has_a_label_and_a_question_is_text():
    panel = explore(Drawing(), "Is a < b?", slice_number=range(3), target=["CT", "T1c"])
    controls = [child for child in panel.children if isinstance(child, (widgets.IntSlider, widgets.Dropdown))]
    assert [control.description for control in controls] == ["slice number", "target"]
    assert "Is a &lt; b?" in panel.children[0].value
    assert control_of(panel, Picture).text == "Is a < b?", "read aloud by screen readers"


@pytest.mark.parametrize(
    "controls", [{}, {name: [1, 2] for name in "abcde"}, {"a": 3}], ids=["none", "five", "a number"])
def test_controls_that_make_no_explorer_are_refused(controls):
    with pytest.raises(VaeliteError):
        explore(Drawing(), **controls)


def test_a_drawing_function_that_returns_no_figure_is_refused():
    with pytest.raises(VaeliteError, match="returns a Figure"):
        explore(lambda a: None, a=[1, 2])


@pytest.mark.parametrize(
    ("control", "expected"),
    [(widgets.IntSlider(2, 1, 9), [1, 9]), (widgets.Dropdown(options=[("one", 1), ("two", 2)]), [1, 2]),
     (widgets.Dropdown(options={"one": 1, "two": 2}), [1, 2]), (widgets.Checkbox(True), [False, True])],
    ids=["slider", "pairs", "mapping", "box"],
)
def test_the_ends_of_a_control(control, expected):
    assert ends(control) == expected


def test_shown_source_is_the_library_s_own():
    assert "def ends(control" in show_source(ends).data


NOTEBOOK = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---
# %% tags=["parameters"]
refused = 0
# %%
import ipywidgets as widgets
from matplotlib.figure import Figure
from vaelite.explore.panel import explore
def draw(depth):
    1 / (depth - refused)
    return Figure(figsize=(1, 1))
panel = explore(draw, "How deep?", depth=widgets.IntSlider(2, 1, 5)); panel
# %%
panel.children[1].value = 3
"""


@pytest.fixture
def run_explorer(tmp_path):
    """Run a notebook that has one explorer -> the executed copy."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / "01_explorer.py").write_text(NOTEBOOK)

    def run(refused):
        return run_notebooks(None, {"refused": refused}, "run", folder=folder, cwd=tmp_path, say=lambda line: None)[0]

    return run


def test_an_executed_notebook_keeps_the_picture(run_explorer):
    outputs = [output for cell in nbformat.read(run_explorer(0), 4).cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)


def test_the_page_shows_picture_and_question_once_and_says_where_the_sliders_are(run_explorer):
    page = run_explorer(0).with_suffix(".html").read_text()
    shown = page[page.index("<body"):]
    assert shown.count("<b>How deep?</b>") == shown.count("<img") == shown.count(PAGE_NOTE) == 1


@pytest.mark.parametrize("refused", [5, 3], ids=["an end", "a position moved to later"])
def test_an_error_in_an_explorer_fails_the_run_of_the_notebook(run_explorer, refused):
    with pytest.raises(VaeliteError, match="ZeroDivisionError"):
        run_explorer(refused)
