"""README shows what the committed reports say, and no other result."""
import gzip
import json
import re
from pathlib import Path

import pytest

from vaelite.report import fill

ROOT = Path(__file__).parents[1]
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
