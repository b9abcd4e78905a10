"""The house rules that a program can check: imports flow one way, and notebooks stay notebooks."""

from __future__ import annotations

import ast
import re
import subprocess
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).parents[1]
TIERS = [                                                    # packages and modules, each knows only the lines above its own
    {"errors", "exercises", "pages"},
    {"scale"},
    {"runs"},
    {"data"},
    {"models"},
    {"training"},
    {"translate", "figures"},
    {"evaluation"},
    {"dose", "explore"},
    {"reader_study", "profiles", "report"},
    {"stages"},
    {"notebooks"},
    {"__main__"},
    {"__init__"},                                            # the public names; nothing inside the library imports them
]
NAMELESS = {"utils", "util", "misc", "common", "helpers", "helper", "tools", "lib"}
LIBRARY = ROOT / "vaelite"
PACKAGES = {path.parent.name for path in LIBRARY.glob("*/__init__.py")}
MODULES = {
    ".".join(path.relative_to(LIBRARY).with_suffix("").parts): path
    for path in sorted(LIBRARY.rglob("*.py"))
    if path.parent == LIBRARY or path.stem != "__init__"
}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))


def tier(module: str) -> int:
    top = module.split(".")[0]
    positions = [number for number, names in enumerate(TIERS) if top in names]
    assert positions, f"give vaelite/{top} a tier in this test"
    return positions[0]


def siblings(source: str, package: str = "") -> set[str]:
    """The vaelite modules that a module of this package ("" for the top) imports, wherever in it the import stands."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            here = f"vaelite.{package}".rstrip(".").split(".")
            origin = ".".join([*here[: len(here) + 1 - node.level], node.module or ""]).rstrip(".") if node.level else node.module
            inner = {"vaelite", *(f"vaelite.{name}" for name in PACKAGES)}
            names |= {f"{origin}.{alias.name}" for alias in node.names} if origin in inner else {origin}
    inside = {name.removeprefix("vaelite").lstrip(".") for name in names if name.split(".")[0] == "vaelite"}
    return {name if name in MODULES else "__init__" for name in inside}


def cells(notebook: Path, kind: str = "code") -> list:
    return [cell for cell in jupytext.read(notebook).cells if cell.cell_type == kind]


def tags(cell) -> set[str]:
    return set(cell.metadata.get("tags", []))


def test_every_form_of_import_is_seen():
    source = (
        "import vaelite.data.cases\nfrom vaelite.dose.metrics import dvh\nfrom vaelite import errors\nfrom .. import runs\n"
        "def late():\n    from .plan import Plan\n    from ..models import vae\nfrom vaelite import load_cases\nimport numpy\n"
    )
    assert siblings(source, "dose") == {"data.cases", "dose.metrics", "errors", "runs", "dose.plan", "models.vae", "__init__"}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_tiers_below_its_own(module):
    package = module.rpartition(".")[0]
    others = {other for other in siblings(MODULES[module].read_text(), package) if not package or other.split(".")[0] != package}
    assert sorted(other for other in others if tier(other) >= tier(module)) == [], f"tier {tier(module)}: {TIERS[tier(module)]}"


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_imports_inside_a_package_make_no_circle(package):
    inside = {module: path for module, path in MODULES.items() if module.split(".")[0] == package}
    graph = {module: siblings(path.read_text(), package) & inside.keys() for module, path in inside.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(inside) > 1, "a circle raises CycleError"


def test_every_file_is_named_after_what_it_is_about():
    folders = [ROOT / name for name in ("vaelite", "data_scripts", "tests", "notebooks")]
    files = [path for folder in folders for path in folder.rglob("*.py")]
    assert [str(path.relative_to(ROOT)) for path in files if path.stem in NAMELESS] == []


@pytest.mark.parametrize("path", MODULES.values(), ids=MODULES)
def test_the_library_knows_nothing_of_the_scripts_that_make_data(path):
    scripts = {script.stem for script in (ROOT / "data_scripts").glob("*")} | {"data_scripts"}
    imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    roots = {name.split(".")[0] for node in imports for name in [getattr(node, "module", None) or node.names[0].name]}
    assert roots & scripts == set()


def test_no_executed_notebook_is_tracked():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git clone")
    tracked = listed.stdout.splitlines()
    assert [name for name in tracked if name.endswith(".ipynb") or name.startswith(("data/", "runs/"))] == []


def test_the_four_notebooks_are_there():
    names = [path.stem for path in NOTEBOOKS]
    assert names == ["01_vae", "02_latent_mapper", "03_decoder_finetune", "04_eval_dosimetry"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_has_a_header_that_names_the_kernel(self, path):
        assert jupytext.read(path).metadata.kernelspec.name == "python3"
        assert "format_name: percent" in path.read_text()

    def test_opens_with_a_card_and_one_parameters_cell(self, path):
        card = cells(path, "markdown")[0].source
        assert [word for word in ("Goal", "Time", "Needs", "Makes", "You should know") if word not in card] == []
        assert sum("parameters" in tags(cell) for cell in cells(path)) == 1
        assert "parameters" in tags(cells(path)[0]), "the parameters are the first code"
        names = {node.targets[0].id for node in ast.parse(cells(path)[0].source).body if isinstance(node, ast.Assign)}
        assert {"profile_name", "data_dir", "run_dir"} <= names

    def test_each_exercise_has_a_check_and_a_hidden_solution(self, path):
        steps = [step for cell in cells(path) for step in ("exercise", "check", "solution") if step in tags(cell)]
        assert steps and steps == ["exercise", "check", "solution"] * (len(steps) // 3)
        solutions = [cell for cell in cells(path) if "solution" in tags(cell)]
        assert all(cell.metadata.get("jupyter", {}).get("source_hidden") for cell in solutions)

    def test_each_check_cell_is_one_call_of_a_check_of_the_library(self, path):
        """Nobody should meet the answers in a cell. Where the import cell is full, the first check cell imports the checks."""
        imported, called = set(), []
        for cell in cells(path):
            body = ast.parse(_without_magics(cell.source)).body
            imports = [node for node in body if isinstance(node, ast.ImportFrom) and node.module == "vaelite.exercises"]
            imported |= {alias.name for node in imports for alias in node.names}
            if "check" in tags(cell):
                (call,) = [node for node in body if node not in imports]
                match = re.fullmatch(r"print\((check_(\w+))\(my_\2\)\)", ast.unparse(call))
                assert match and match[1] in imported, ast.unparse(call)
                called.append(match[1])
            elif "solution" in tags(cell):
                assert ast.unparse(body[-1]) == ast.unparse(call), "a solution is put to the same check"
        assert sorted(called) == sorted(imported)

    def test_cells_are_short(self, path):
        long = [cell.source.splitlines()[0] for cell in cells(path) if len(cell.source.splitlines()) > 25]
        assert long == [], "at most 25 lines; longer code belongs in vaelite/"

    def test_functions_are_short(self, path):
        long = []
        for cell in cells(path):
            source = _without_magics(cell.source)
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.FunctionDef):
                    lines = source.splitlines()[node.lineno - 1 : node.end_lineno]
                    long += [node.name] if sum(bool(line.strip()) for line in lines) > 10 else []
        assert long == [], "at most 10 lines; a longer function belongs in vaelite/"

    def test_training_loops_live_in_the_library(self, path):
        assert [cell.source for cell in cells(path) if ".backward()" in cell.source] == []

    def test_has_explorer_and_closing(self, path):
        assert any(re.search(r"\bexplore\w*\(", cell.source) for cell in cells(path))
        closing = " ".join(cell.source for cell in cells(path, "markdown")[-2:])
        assert [part for part in ("What we did", "What it cannot do", "Next") if part not in closing] == []


def test_no_function_is_defined_twice_across_notebooks():
    homes = Counter()
    for path in NOTEBOOKS:
        trees = [ast.parse(_without_magics(cell.source)) for cell in cells(path)]
        nodes = {node.name for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        homes.update(nodes)                                  # a set: an exercise and its solution share a name
    assert [name for name, count in homes.items() if count > 1] == []


def _without_magics(source: str) -> str:
    return "\n".join(line for line in source.splitlines() if not line.lstrip().startswith(("%", "!")))
