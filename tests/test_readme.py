"""README shows what the committed reports say, and no other result."""
import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vaelite.data.cases import load_cases
from vaelite.report import fill, put

ROOT = Path(__file__).parents[1]
COURSE = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
REPORTS = {path.name.removesuffix(".json.gz"): json.loads(gzip.decompress(path.read_bytes()))
           for path in (ROOT / "tests" / "reports").glob("*.json.gz")}


@pytest.mark.parametrize("run", sorted(REPORTS))
def test_the_tables_are_those_of_the_report(run):
    assert f":{run} -->" in README
    assert fill(README, REPORTS[run]) == README, f"write them anew: vaelite report runs/{run} --into README.md"


def test_no_block_is_without_its_report():
    assert set(re.findall(r"<!-- (?:summary|details):(\S+) -->", README)) == set(REPORTS) != set()


def test_a_changed_figure_would_be_found():
    run, report = next(iter(REPORTS.items()))
    row = next(row for row in report["rows"] if row["table"] == "translation" and row["method"] == "vaelite")
    changed = json.loads(json.dumps(report))
    changed["rows"][report["rows"].index(row)]["mean"] *= 1.1
    assert fill(README, changed) != README


def test_no_result_stands_outside_the_blocks():
    """A figure with a unit of image or dose quality belongs to a report: nobody may type it."""
    typed = re.sub(r"<!-- (?:summary|details):.*?<!-- end -->", "", README, flags=re.S)
    assert re.findall(r"\d[\d.]*\s*(?:dB|HU|Gy)\b|\d\.\d+\s*%", typed) == []


@pytest.mark.parametrize("run", sorted(REPORTS))
def test_every_row_says_what_it_is(run):
    report = REPORTS[run]
    assert re.fullmatch("[0-9a-f]{64}", report["data"]["fingerprint"]) and report["code_version"]
    for row in report["rows"]:
        measured = [value for value in row["values"] if value is not None]
        crowd = row["table"] == "distribution"               # a distance between crowds has no value of one patient
        assert row["convention"] and row["split"] == "test" and (crowd or row["n"] == len(measured))


def test_every_section_that_the_course_names_is_there():
    named = set(re.findall(r"\b(0[1-4]) §(\d+)", COURSE))
    lessons = {path.stem[:2]: path.read_text(encoding="utf-8") for path in (ROOT / "notebooks").glob("0*.py")}
    assert [place for place in sorted(named) if f"\n# ## {place[1]} · " not in lessons[place[0]]] == []
    last = {(lesson, re.findall(r"^# ## (\d+) · ", text, flags=re.M)[-1]) for lesson, text in lessons.items()}
    assert last <= named, "the course ends where the lessons do"


def test_the_times_of_the_course_are_those_of_whole_runs():
    """Filled by `vaelite report RUN --into notebooks/README.md`; an empty place waits for a run."""
    blocks = re.findall(r"<!-- times:(\S+) -->\n(.*?)<!-- end -->", COURSE, flags=re.S)
    filled = [(run, block) for run, block in blocks if block]
    assert filled
    for run, block in filled:
        rows = [line.split(" | ") for line in block.splitlines() if line.startswith("| `")]
        assert block.startswith(f"Run `{run}`") and [row[0][3:5] for row in rows] == ["01", "02", "03", "04"]
        assert all(float(row[1]) >= float(row[2]) for row in rows), "the training is a part of the time"


def test_only_what_stands_between_the_marks_is_written_anew():
    text = "before\n<!-- times:a -->\nold\n<!-- end -->\nbetween\n<!-- times:b -->\n<!-- end -->\nafter\n"
    once = put(text, "times:b", "new")
    assert once == text.replace("times:b -->", "times:b -->\nnew") == put(once, "times:b", "new")
    assert put(text, "times:a", "new") == text.replace("old", "new")


def test_the_script_for_own_data_writes_what_the_door_takes(tmp_path):
    script = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    (tmp_path / "data_scripts").symlink_to(ROOT / "data_scripts")
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    cases = load_cases(tmp_path / "data" / "myset")
    assert [case.split for case in cases] == ["train", "train", "validation", "test"]
    assert {case.modalities for case in cases} == {("CBCT", "CT")}
    assert np.ptp(cases[0].volume("CT")) == 1030


def test_every_link_of_the_readme_leads_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 8 and all(link.startswith("https://") or (ROOT / link).exists() for link in links)
