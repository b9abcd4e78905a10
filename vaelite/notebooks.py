"""Run the notebooks one after the other and leave an executed copy and a static page of each.

The sources are `notebooks/NN_name.py` (Jupytext percent format).  papermill runs them; this module adds what it lacks:
unknown parameters are refused, an error held inside a widget fails the run, and the copies work without a network.
"""

from __future__ import annotations

import ast
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path

import jupytext
import nbformat
import papermill
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient.exceptions import DeadKernelError
from papermill.engines import NBClientEngine, papermill_engines
from traitlets import default

from vaelite.errors import VaeliteError
from vaelite.evaluation.rows import markdown
from vaelite.pages import clean, static_page
from vaelite.runs import MADE_BY, Run

PROJECT = Path(__file__).resolve().parents[1]
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
ANSI_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
PEAK_MEMORY = """from pathlib import Path
status = Path("/proc/self/status")                           # Linux; getrusage would count what the runner had at the fork
int(status.read_text().split("VmHWM:")[1].split()[0]) // 1024 if status.exists() else None"""


def run_notebooks(
    names: Iterable[str] | None,
    parameters: Mapping[str, object],
    run_dir: str | Path,
    *,
    folder: str | Path = PROJECT / "notebooks",
    cwd: str | Path = PROJECT,
    say: Callable[[str], None] = partial(print, flush=True),
) -> list[Path]:
    """Execute notebooks in order; stop at the first that fails.  Returns the executed .ipynb files.

    names: stems such as "01_vae"; None takes all of `folder`, sorted.  parameters: values for each parameters cell.
    cwd: where the kernels work; relative paths in `parameters` start there.  say: called with each line of progress.
    Results: `run_dir/notebooks/<name>.ipynb` and `.html`; a failed copy is kept as `<name>.failed.ipynb`.
    Raises VaeliteError: unknown notebook or parameter, a cell or widget that failed, a kernel that died.
    """
    sources = find_notebooks(names, folder)
    parameters = {name: str(value) if isinstance(value, Path) else value for name, value in parameters.items()}
    for source in sources:                                   # all first: nobody waits an hour for a typing error
        refuse_unknown_parameters(source, parameters)
    results = (Path(cwd) / run_dir).resolve() / "notebooks"
    results.mkdir(parents=True, exist_ok=True)
    return [_run_one(source, parameters, results, Path(cwd).resolve(), say) for source in sources]


def find_notebooks(names: Iterable[str] | None, folder: str | Path) -> list[Path]:
    """The notebook sources called `names` (stems, in this order), or all of `folder` when names is None."""
    found = {path.stem: path for path in sorted(Path(folder).glob("[0-9][0-9]_*.py"))}
    if not found:
        raise VaeliteError(f"{folder} holds no notebook (NN_name.py). Run this from a clone of the project.")
    unknown = [name for name in names or () if name not in found]
    if unknown:
        raise VaeliteError(f"{folder} has no notebook {', '.join(unknown)}. There are: {', '.join(found)}.")
    return [found[name] for name in (found if names is None else names)]


def student_copy(lesson: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The lesson without its solutions. Stubs and checks stay, so it still runs; a check says "not attempted yet"."""
    cells = [cell for cell in lesson.cells if "solution" not in cell.metadata.get("tags", [])]
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": lesson.metadata.kernelspec})


def write_copies(folder: str | Path, *, solutions: bool, lessons: str | Path = PROJECT / "notebooks") -> list[Path]:
    """Write all lessons as .ipynb into `folder`, to be handed out: as they are, or without their solutions."""
    if Path(folder).exists() and not Path(folder).is_dir():
        raise VaeliteError(f"{folder} is a file. Give a folder for the copies.")
    copies = {source.stem: jupytext.read(source) for source in find_notebooks(None, lessons)}
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, lesson in copies.items():
        _write(Path(folder) / f"{name}.ipynb", nbformat.writes(lesson if solutions else student_copy(lesson)))
    return [Path(folder) / f"{name}.ipynb" for name in copies]


def times_table(run: Run) -> str:
    """Minutes and peak memory of each executed lesson of a run, as Markdown; for whoever plans a course.

    A stage that the lesson found trained counts with the time that its training took. Processor time is what a busy
    computer needs too.
    Raises VaeliteError if the run has no executed lesson.
    """
    executed = [path for path in sorted((run.path / "notebooks").glob("*.ipynb")) if not path.stem.endswith(".failed")]
    if not executed:
        raise VaeliteError(f"{run.path}/notebooks has no executed lesson. Run `make run-all` first.")
    rows, sums = [], [0.0, 0.0, 0.0]
    for path in executed:
        facts = nbformat.read(path, 4).metadata
        start = datetime.fromisoformat(facts.papermill.start_time)
        stages = [stage for name, stage in run.stages.items() if MADE_BY.get(name) == path.stem]
        kept_s = sum(stage["seconds"] for stage in stages if datetime.fromisoformat(stage["written"]) < start)
        training = [sum(stage[clock] for stage in stages) / 60 for clock in ("seconds", "processor_seconds")]
        minutes = [(facts.papermill.duration + kept_s) / 60, *training]
        sums = [total + value for total, value in zip(sums, minutes)]
        memory = facts.get("vaelite", {}).get("peak_memory_mib")
        rows.append([f"`{path.stem}`", *(f"{value:.1f}" for value in minutes), f"{memory:,}" if memory else "–"])
    rows.append(["all", *(f"{value:.1f}" for value in sums), ""])
    header = ["lesson", "time [min]", "of it training [min]", "processor time of the training [min]", "peak memory [MiB]"]
    devices = ", ".join(sorted({stage["device"] for stage in run.stages.values()}))
    return f"Run `{run.name}`, trained on: {devices or 'nothing'}\n\n{markdown(header, rows)}"


def refuse_unknown_parameters(source: Path, parameters: Mapping[str, object]) -> None:
    """Raise VaeliteError for a parameter that the notebook's parameters cell does not assign (papermill only warns)."""
    tagged = [cell.source for cell in jupytext.read(source).cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise VaeliteError(f"{source.name} needs one cell tagged 'parameters'; it has {len(tagged)}.")
    assignments = [node for node in ast.walk(ast.parse(tagged[0])) if isinstance(node, ast.Assign | ast.AnnAssign)]
    targets = [target for node in assignments for target in getattr(node, "targets", None) or [node.target]]
    known = sorted(target.id for target in targets if isinstance(target, ast.Name))
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise VaeliteError(f"{source.name} has no parameter {', '.join(unknown)}. It has: {', '.join(known)}.")


def _run_one(source: Path, parameters: dict, results: Path, cwd: Path, say: Callable[[str], None]) -> Path:
    """Execute one notebook and put its copies in `results`: an unfinished file first, renamed when all is well."""
    name = source.stem
    executed, page = results / f"{name}.ipynb", results / f"{name}.html"
    failed, unfinished = results / f"{name}.failed.ipynb", results / f".{name}.unfinished.ipynb"
    progress = _Progress(name, say)
    start = time.perf_counter()
    problem = None
    notebook = jupytext.read(source)
    notebook.cells.append(nbformat.v4.new_code_cell(PEAK_MEMORY))
    try:
        papermill.execute_notebook(
            notebook, unfinished, parameters, engine_name="vaelite", progress=progress, cwd=cwd,
            kernel_name="python3", kernel_manager_class=OwnKernel, progress_bar=False, start_timeout=180,
            stdout_file=_Indented(say), stderr_file=_Indented(say),
        )
    except papermill.PapermillExecutionError as error:
        problem = _cell_problem(error, progress, say)
    except DeadKernelError:
        problem = (
            f"the kernel died in {progress.where()}, most often because the memory was full. Close other programs, "
            "or choose a smaller profile, fewer cases or a smaller size."
        )
    notebook = nbformat.read(unfinished, as_version=4)
    for output in notebook.cells.pop().outputs:
        notebook.metadata["vaelite"] = {"peak_memory_mib": int(output.data["text/plain"])}
    problem = problem or hidden_error(notebook)
    clean(notebook, cwd)
    unfinished.unlink()
    if problem:
        _write(failed, nbformat.writes(notebook))
        raise VaeliteError(f"{name}: {problem}\nThe notebook up to there: {_shown(failed, cwd)}")
    _write(executed, nbformat.writes(notebook))
    _write(page, static_page(notebook, name))
    failed.unlink(missing_ok=True)
    say(f"{name}  done  {time.perf_counter() - start:.0f} s  {_shown(page, cwd)}")
    return executed


def _cell_problem(error: papermill.PapermillExecutionError, progress: _Progress, say: Callable[[str], None]) -> str:
    """One line about a failed cell; the traceback of anything but our own refusals is said before it."""
    message = ANSI_COLOUR.sub("", str(error.evalue)).strip()
    if error.ename == "VaeliteError":
        return message
    say(ANSI_COLOUR.sub("", "\n".join(error.traceback)))
    return f"{progress.where()} stopped with {error.ename}: {message}"


def hidden_error(notebook: nbformat.NotebookNode) -> str | None:
    """The first error that did not stop the notebook: held by an Output widget or printed by a callback; else None."""
    models = notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {}).values()
    held = [output for model in models for output in model.get("state", {}).get("outputs", [])]
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    for output in held + shown:
        if output["output_type"] == "error":
            return f"an error was held inside a widget: {output['ename']}: {ANSI_COLOUR.sub('', output['evalue'])}"
        text = "".join(output.get("text", "")) if output.get("name") == "stderr" else ""
        if "Traceback (most recent call last)" in text:
            return f"an error was printed but did not stop the notebook: {text.strip().splitlines()[-1]}"
    return None


def _write(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _shown(path: Path, cwd: Path) -> str:
    return str(path.relative_to(cwd) if path.is_relative_to(cwd) else path)


class _Progress:
    """Says one line for each code cell that ends: name, number, seconds and the heading it stands under."""

    def __init__(self, name: str, say: Callable[[str], None]):
        self.name, self.say = name, say
        self.number = self.total = 0
        self.heading = ""

    def where(self) -> str:
        return f"cell {self.number}/{self.total}" + (f" ('{self.heading}')" if self.heading else "")

    def watch(self, manager) -> None:
        """Hook into papermill's manager of one execution."""
        self.total = sum(cell.cell_type == "code" for cell in manager.nb.cells) - 1    # the last one only measures
        cell_start, cell_complete = manager.cell_start, manager.cell_complete

        def started(cell, *args, **kwargs):
            self.started_at = time.perf_counter()
            if cell.cell_type == "code":
                self.number += 1
            elif headings := re.findall(r"^#+ +(.+)$", cell.source, flags=re.MULTILINE):
                self.heading = headings[-1]
            cell_start(cell, *args, **kwargs)

        def completed(cell, *args, **kwargs):
            if cell.cell_type == "code" and self.number <= self.total:
                seconds = time.perf_counter() - self.started_at
                self.say(f"{self.name}  cell {self.number}/{self.total}  {seconds:.0f} s  {self.heading}".rstrip())
            cell_complete(cell, *args, **kwargs)

        manager.cell_start, manager.cell_complete = started, completed


class _Indented:
    """A text stream that hands complete lines to `say`, indented: what a cell prints, while it prints it."""

    def __init__(self, say: Callable[[str], None]):
        self.say, self.rest = say, ""

    def write(self, text: str) -> None:
        *lines, self.rest = re.split(r"[\r\n]+", self.rest + text)
        for line in filter(str.strip, lines):
            self.say(f"    {line}")

    def flush(self) -> None:
        """papermill calls it; `say` has told all there is."""


class OwnKernel(AsyncKernelManager):
    """Starts the kernel of this very Python, whatever other kernel called python3 the user has installed."""

    @default("kernel_spec_manager")
    def _without_installed_kernels(self):
        return KernelSpecManager(parent=self, kernel_dirs=[])

    @default("transport_encryption")
    def _where_the_kernel_can(self):
        return "auto"


class ProgressEngine(NBClientEngine):
    """papermill's own engine, watched by a `_Progress`."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, progress, **kwargs):
        progress.watch(nb_man)
        return super().execute_managed_notebook(nb_man, kernel_name, **kwargs)


papermill_engines.register("vaelite", ProgressEngine)
