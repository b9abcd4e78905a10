"""The set-up installs one tested set of versions, once, and its three descriptions agree."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
TARGETS = ["run-all", "test", "lab", "explore", "data", "notebooks", "report", "student", "solutions", "clean"]


def normal(name: str) -> str:
    """One spelling of a package name, as installers compare them."""
    return re.sub(r"[-_.]+", "-", name).lower()


def package(requirement: str) -> str:
    return normal(re.match(r"[A-Za-z0-9._-]+", requirement)[0])


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    return {package(line): line for line in lines}


def make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess:
    """Run make as a user would: without the variables that a `make test` around this test hands down."""
    inherited = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "PROFILE", "DATA", "RUN", "PYTHON"}
    environment = {key: value for key, value in os.environ.items() if key not in inherited}
    return subprocess.run(["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def clone(tmp_path):
    """The files that `make` reads, in a folder of their own, with the set-up marked as done."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "ready").touch()
    return tmp_path


def test_every_constraint_is_one_exact_version():
    for line in pins().values():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line), f"{line}: a plain name==version is wanted"


def test_torch_is_pinned_without_a_local_suffix():
    assert pins()["torch"] == "torch==2.13.0"


@pytest.mark.parametrize("extra", ["core", *EXTRAS])
def test_constraints_pin_everything_that_pyproject_asks_for(extra):
    wanted = PROJECT["dependencies"] if extra == "core" else EXTRAS[extra]
    assert [item for item in wanted if package(item) not in pins()] == []


def test_pinned_versions_lie_in_the_ranges_of_pyproject():
    packaging = pytest.importorskip("packaging.requirements")
    for item in [*PROJECT["dependencies"], *(item for group in EXTRAS.values() for item in group)]:
        version = pins()[package(item)].partition("==")[2]
        assert packaging.Requirement(item).specifier.contains(version), f"{item} does not allow {version}"


def test_the_library_needs_no_notebook_dose_or_test_packages():
    core = {package(item) for item in PROJECT["dependencies"]}
    assert core == {"einops", "matplotlib", "monai", "nibabel", "numpy", "plotly", "safetensors", "scipy", "torch"}


def test_environment_yml_installs_what_make_installs():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [item for item in environment["dependencies"] if isinstance(item, str)]
    (pip,) = (item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
    (extras,) = re.findall(r"^EXTRAS := (.+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert environment["name"] == PROJECT["name"]
    assert pip == ["-c constraints.txt", f"-e .[{extras}]"]
    assert set(extras.split(",")) <= set(EXTRAS)
    assert "python=3.11" in conda and PROJECT["requires-python"].startswith(">=3.11")
    assert {"pip", "make", "git"} <= set(conda), "a conda user may have no other make or git"


def test_make_help_lists_every_command_and_make_alone_is_help():
    told = make("help")
    assert told.returncode == 0
    assert [target for target in TARGETS if f"  make {target} " not in told.stdout] == []
    assert make().stdout == told.stdout
    listed = re.findall(r"^  make (\S+)", told.stdout, flags=re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)[1].split()
    assert sorted([*listed, "help"]) == sorted(phony)


def test_the_set_up_happens_once_and_again_when_versions_change(clone):
    assert "pip install" not in make("-n", ".venv", folder=clone).stdout
    assert "pip install" not in make("-n", "run-all", folder=clone).stdout
    later = (clone / ".venv" / "ready").stat().st_mtime + 10
    os.utime(clone / "constraints.txt", (later, later))
    assert "pip install" in make("-n", "run-all", folder=clone).stdout


def test_a_python_that_is_too_old_is_refused_with_the_way_out(clone):
    old = clone / "old-python"
    old.write_text('#!/bin/sh\ntest "$1" = --version && echo "Python 3.9.2"\ntest "$1" = --version\n')
    old.chmod(0o755)
    (clone / ".venv" / "ready").unlink()
    refused = make(".venv", f"PYTHON={old}", folder=clone)
    assert refused.returncode != 0
    assert "needs Python 3.11, 3.12 or 3.13" in refused.stdout and "is Python 3.9.2" in refused.stdout


@pytest.mark.parametrize(
    ("variables", "data", "run"),
    [
        ([], "data/phantom-laptop", "runs/phantom-laptop"),
        (["PROFILE=smoke"], "data/phantom-smoke", "runs/phantom-smoke"),
        (["DATA=data/openkbp/"], "data/openkbp", "runs/openkbp-laptop"),
        (["DATA=elsewhere/mine", "RUN=runs/first"], "elsewhere/mine", "runs/first"),
    ],
)
def test_one_variable_names_data_and_run(clone, variables, data, run):
    planned = make("-n", "run-all", *variables, folder=clone).stdout
    assert f"--data {data} --run {run}" in planned
    assert ("make_phantom.py" in planned) == data.startswith("data/phantom"), "a user's own folder is never filled"


def test_cases_and_size_go_to_the_phantom(clone):
    planned = make("-n", "data", "CASES=3", "SIZE=64", "JOBS=2", folder=clone).stdout
    assert "cases=3 " in planned and "size=64 " in planned and "--jobs 2" in planned


def test_a_user_s_own_folder_is_checked_and_said_not_to_be_filled(clone):
    planned = make("-n", "data", "DATA=data/my", "CASES=3", folder=clone).stdout
    assert "checked, not filled" in planned and "vaelite check data/my" in planned and "make_phantom.py" not in planned


def test_a_variable_in_small_letters_is_refused(clone):
    refused = make("-n", "run-all", "profile=smoke", "run=runs/a", folder=clone)
    assert refused.returncode != 0 and "in capitals: PROFILE= RUN=" in refused.stderr


def test_a_folder_with_a_space_is_refused(clone):
    refused = make("-n", "run-all", "DATA=my data", folder=clone)
    assert refused.returncode != 0 and "no spaces" in refused.stderr


def test_explore_without_a_run_says_how_to_make_one(clone):
    refused = make("explore", folder=clone)
    assert refused.returncode != 0 and "make run-all" in refused.stdout


def test_clean_keeps_data_and_runs(clone):
    for folder in ("data/phantom-smoke", "runs/phantom-smoke", "vaelite/__pycache__"):
        (clone / folder).mkdir(parents=True)
    assert make("clean", folder=clone).returncode == 0
    assert sorted(path.name for path in clone.iterdir() if path.is_dir()) == ["data", "runs", "vaelite"]
    assert list((clone / "vaelite").iterdir()) == []


def test_lab_opens_percent_files_as_notebooks_and_asks_for_no_news():
    settings = json.loads((ROOT / ".jupyter" / "labconfig" / "default_setting_overrides.json").read_text())
    assert settings["@jupyterlab/docmanager-extension:plugin"]["defaultViewers"]["python"] == "Jupytext Notebook"
    assert settings["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"


def test_continuous_integration_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    commands = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert commands[0] == "set -e" and commands[-1] == "exec make test"


def test_licence_and_citation_name_the_same_version_and_terms():
    licence, citation = (ROOT / "LICENSE").read_text(), yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["license"] == " AND ".join(citation["license"]) == "MIT AND CC-BY-4.0"
    assert all(f"SPDX: {name}" in licence for name in citation["license"])
    assert citation["version"] == PROJECT["version"]
    assert citation["references"][0]["doi"] == "10.1002/mp.17912"
