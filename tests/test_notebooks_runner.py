"""The runner fails when a notebook fails, however the notebook hides it, and leaves copies that work offline."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

from vaelite.errors import VaeliteError
from vaelite.notebooks import (
    PROJECT,
    find_notebooks,
    refuse_unknown_parameters,
    run_notebooks,
    student_copy,
    times_table,
    write_copies,
)
from vaelite.pages import EXPLORER_NOTE
from vaelite.runs import open_run

HEADER = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% tags=["parameters"]
steps = 1
data_dir = "data"
"""

GOOD = HEADER + r"""
# %% [markdown]
# ## A lesson
# The KL term is $\tfrac{1}{2}\left(\mu^2 + \sigma^2 - \log\sigma^2 - 1\right)$ per latent.
#
# $$ D = \sum_{i=1}^{n} d_i $$

# %%
import sys, os, warnings
import matplotlib.pyplot as plt
import ipywidgets as widgets
import plotly.graph_objects as go
print("steps", steps, sys.executable)
print(os.path.join(os.getcwd(), "runs"))

# %%
# %matplotlib inline
plt.plot([0, 1], [0, steps]);

# %% [markdown]
# ## An explorer

# %%
widgets.VBox([widgets.FloatSlider(description="mu"), go.FigureWidget(data=[go.Scatter(x=[1, 2], y=[3, 4])])])
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "notebooks").mkdir()
    return tmp_path


def run(project: Path, parameters: dict | None = None, lines: list | None = None, names=None) -> list[Path]:
    say = (lines if lines is not None else []).append
    folder = project / "notebooks"
    return run_notebooks(names, parameters or {}, "runs/trial", folder=folder, cwd=project, say=say)


def write(project: Path, name: str, text: str) -> None:
    (project / "notebooks" / f"{name}.py").write_text(text)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """One good notebook, executed once: (project, executed notebook, page, lines of progress)."""
    project = tmp_path_factory.mktemp("good")
    (project / "notebooks").mkdir()
    write(project, "01_good", GOOD)
    lines: list[str] = []
    executed = run(project, {"steps": 7}, lines)
    return project, nbformat.read(executed[0], 4), executed[0].with_suffix(".html").read_text(), lines


def test_parameters_reach_the_notebook_and_progress_is_told_cell_by_cell(good):
    _, notebook, _, lines = good
    assert any("steps 7" in line for line in lines), "what a cell prints is shown while it runs"
    told = [line for line in lines if re.match(r"01_good  cell \d/\d  \d+ s", line)]
    assert len(told) == sum(cell.cell_type == "code" for cell in notebook.cells)
    assert told[-1].endswith("An explorer") and "cell 5/5" in told[-1]


def test_the_kernel_is_this_python_even_where_the_user_has_another_python3_kernel(project, monkeypatch):
    kernel = project / "share" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    impostor = {"argv": ["/bin/false", "{connection_file}"], "display_name": "other", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(impostor))
    monkeypatch.setenv("JUPYTER_PATH", str(kernel.parents[1]))
    write(project, "01_who", HEADER + "\n# %%\nimport sys\nprint(sys.executable)\n")
    lines: list[str] = []
    run(project, lines=lines)
    assert f"    {sys.executable}" in lines


def test_widget_state_is_stripped_and_a_note_stands_in_its_place(good):
    _, notebook, page, _ = good
    assert "widgets" not in notebook.metadata
    assert len(json.dumps(notebook)) < 500_000, "a FigureWidget alone would leave about 5 MB"
    assert "vnd.jupyter.widget-view" not in json.dumps(notebook)
    assert notebook.cells[-1].outputs[0].data["text/plain"] == EXPLORER_NOTE
    assert EXPLORER_NOTE in page


def test_the_page_asks_the_network_for_nothing(good):
    page = good[2]
    assert "data:image/png;base64" in page, "pictures stand inside the page"
    requests = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=[\"']?(?:https?:)?//[^>]*>", page)
    assert requests == []
    assert "import(" not in page and "@import" not in page and "mathjax" not in page.lower()


def test_formulas_are_drawn_without_scripts(good):
    page = good[2]
    assert page.count("<math") == 2 and 'display="block"' in page
    assert "<mfrac>" in page and r"\tfrac" not in page


def test_copies_hold_no_private_folder(good):
    project, notebook, page, _ = good
    assert str(project) not in json.dumps(notebook) and str(project) not in page
    assert not re.search(rf"(?<![\w+/=]){re.escape(str(Path.home()))}/", json.dumps(notebook))
    assert "./runs" in notebook.cells[3].outputs[0].text


def test_nothing_half_written_is_left(good):
    left = sorted(path.name for path in (good[0] / "runs" / "trial" / "notebooks").iterdir())
    assert left == ["01_good.html", "01_good.ipynb"]


def test_an_unknown_parameter_is_refused_before_anything_runs(project):
    write(project, "01_good", GOOD)
    with pytest.raises(VaeliteError, match=r"no parameter stpes. It has: data_dir, steps"):
        run(project, {"stpes": 7})
    assert not (project / "runs").exists()


def test_a_notebook_without_a_parameters_cell_is_refused(project):
    write(project, "01_bare", HEADER.replace(' tags=["parameters"]', "") + "\n# %%\n1\n")
    with pytest.raises(VaeliteError, match="needs one cell tagged 'parameters'"):
        refuse_unknown_parameters(project / "notebooks" / "01_bare.py", {})


def test_an_unknown_notebook_is_refused_with_the_names_there_are(project):
    write(project, "01_good", GOOD)
    with pytest.raises(VaeliteError, match="no notebook 09_none. There are: 01_good"):
        find_notebooks(["09_none"], project / "notebooks")
    with pytest.raises(VaeliteError, match="holds no notebook"):
        find_notebooks(None, project)


HIDDEN_ERRORS = {
    "interactive_output": """
def draw(mu):
    raise ValueError("the slider broke")
widgets.interactive_output(draw, {"mu": widgets.FloatSlider()})
""",
    "interact": """
def draw(mu):
    if mu > 1:
        raise ValueError("the slider broke")
slider = widgets.FloatSlider(min=0, max=3)
widgets.interact(draw, mu=slider)
slider.value = 2
""",
    "output": """
panel = widgets.Output()
with panel:
    raise ValueError("the slider broke")
panel
""",
    "observe": """
def moved(change):
    raise ValueError("the slider broke")
slider = widgets.FloatSlider()
slider.observe(moved, "value")
slider.value = 2
""",
    "printed": """
import traceback
try:
    raise ValueError("the slider broke")
except ValueError:
    traceback.print_exc()
""",
}


@pytest.mark.parametrize("way", HIDDEN_ERRORS)
def test_an_error_inside_a_widget_fails_the_run(project, way):
    write(project, "01_hidden", HEADER + "\n# %%\nimport ipywidgets as widgets\n" + HIDDEN_ERRORS[way])
    with pytest.raises(VaeliteError, match="the slider broke"):
        run(project)
    assert not (project / "runs" / "trial" / "notebooks" / "01_hidden.ipynb").exists()


def test_the_run_stops_at_the_first_failure_and_says_why_last(project):
    refusal = "from vaelite.errors import VaeliteError\nraise VaeliteError(\"no 'vae' stage: run 01_vae\")"
    write(project, "01_vae", f"{HEADER}\n# %%\n{refusal}\n")
    write(project, "02_never", HEADER + "\n# %%\nprint('reached')\n")
    lines: list[str] = []
    with pytest.raises(VaeliteError) as caught:
        run(project, lines=lines)
    assert str(caught.value).startswith("01_vae: no 'vae' stage: run 01_vae\n")
    assert "runs/trial/notebooks/01_vae.failed.ipynb" in str(caught.value)
    assert not any("Traceback" in line or "02_never" in line for line in lines)


def test_an_unexpected_error_is_told_with_cell_heading_and_traceback(project):
    write(project, "01_bug", HEADER + "\n# %% [markdown]\n# ## The dose\n\n# %%\nedge = 1 / 0\n")
    lines: list[str] = []
    with pytest.raises(VaeliteError, match=r"cell 2/2 \('The dose'\) stopped with ZeroDivisionError: division by zero"):
        run(project, lines=lines)
    assert any("edge = 1 / 0" in line for line in lines)


def test_a_failure_keeps_the_good_copy_of_last_time(project):
    write(project, "01_twice", HEADER + "\n# %%\nassert steps == 1\n")
    (executed,) = run(project)
    before = executed.read_bytes()
    with pytest.raises(VaeliteError):
        run(project, {"steps": 2})
    assert executed.read_bytes() == before and executed.with_name("01_twice.failed.ipynb").exists()
    run(project)
    assert not executed.with_name("01_twice.failed.ipynb").exists(), "a success clears the failed copy away"


def test_a_killed_kernel_is_said_plainly(project):
    write(project, "01_memory", HEADER + "\n# %%\nimport os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    with pytest.raises(VaeliteError, match="the kernel died in cell 2/2, most often because the memory was full"):
        run(project)


def test_the_peak_memory_of_a_lesson_counts_what_it_has_given_back(good, project):
    """200 MiB held for a moment, by a kernel that otherwise does what the good notebook does."""
    write(project, "01_good", GOOD)
    write(project, "02_hungry", GOOD + "\n# %%\nlen(bytearray(200 * 2**20).replace(b'', b''))\n")
    executed = run(project)
    plain, hungry = (nbformat.read(path, 4).metadata["vaelite"]["peak_memory_mib"] for path in executed)
    assert 150 < hungry - plain < 600
    table = times_table(open_run(project / "runs" / "trial")).splitlines()
    assert [line.split(" | ")[0] for line in table[4:]] == ["| `01_good`", "| `02_hungry`", "| all"]
    assert f"{hungry:,}" in table[5]


def test_the_cell_that_measures_memory_is_not_in_the_copy(good):
    assert "VmHWM" not in json.dumps(good[1])


def test_times_of_a_run_without_lessons_are_refused(project):
    with pytest.raises(VaeliteError, match="no executed lesson"):
        times_table(open_run(project))


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """{"student": the four copies, "solutions": the four copies}, read back from disk."""
    folder = tmp_path_factory.mktemp("copies")
    return {kind: [nbformat.read(path, 4) for path in write_copies(folder / kind, solutions=kind == "solutions")]
            for kind in ("student", "solutions")}


def tagged(notebook, tag: str) -> list[str]:
    return [cell.source for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def test_a_student_s_copy_holds_no_line_of_a_solution(copies):
    for student, complete in zip(copies["student"], copies["solutions"]):
        nbformat.validate(student)
        stubs = "\n".join(tagged(complete, "exercise") + tagged(complete, "check"))
        solved = {line.strip() for source in tagged(complete, "solution") for line in source.splitlines()} - {""}
        solved = {line for line in solved if line not in stubs}                   # the stub's first line, the check's call
        assert len(solved) >= len(tagged(complete, "solution")) >= 3
        assert [line for line in solved if line in "\n".join(cell.source for cell in student.cells)] == []


def test_nothing_but_solutions_is_left_out(copies):
    for student, complete in zip(copies["student"], copies["solutions"]):
        kept = [cell.source for cell in complete.cells if "solution" not in cell.metadata.get("tags", [])]
        assert [cell.source for cell in student.cells] == kept


@pytest.mark.parametrize(("kind", "steps", "said"), [
    ("student", ["exercise", "check"], ["not attempted yet"]),
    ("solutions", ["exercise", "check", "solution"], ["not attempted yet", "correct"])])
def test_the_checks_of_a_copy_run(copies, capsys, kind, steps, said):
    for notebook in copies[kind]:
        scope: dict = {}
        exec("import math\nimport numpy as np\nimport torch\nfrom vaelite.exercises import *", scope)
        for cell in notebook.cells:
            if set(steps) & set(cell.metadata.get("tags", [])):
                exec(cell.source, scope)
        assert capsys.readouterr().out.splitlines() == said * len(tagged(notebook, "exercise"))


def test_no_lesson_needs_a_solution_to_go_on(copies):
    """What a stub leaves open (a function that returns None) is called by its own check alone."""
    for student in copies["student"]:
        names = {name for source in tagged(student, "exercise") for name in re.findall(r"^def (my_\w+)", source, flags=re.M)}
        others = [cell.source for cell in student.cells
                  if cell.cell_type == "code" and not {"exercise", "check"} & set(cell.metadata.get("tags", []))]
        assert len(names) >= 3 and [name for name in names if re.search(rf"\b{name}\b", "\n".join(others))] == []


def test_a_student_s_copy_leaves_the_lesson_itself_alone():
    lesson = jupytext.read(PROJECT / "notebooks" / "01_vae.py")
    before = len(lesson.cells)
    assert len(student_copy(lesson).cells) < before == len(lesson.cells)
