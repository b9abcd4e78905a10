"""A reader study is blind, loses no click, opens only after the lock, and its statistics are those of the books."""
from __future__ import annotations

import io
import itertools
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from vaelite.data.cases import load_cases
from vaelite.data.intensity import MODALITIES
from vaelite.errors import VaeliteError
from vaelite.evaluation.comparison import signed_rank_p
from vaelite.models.vae import VAE, VAEConfig
from vaelite.reader_study.answers import CRITERIA, QUESTIONS, open_study
from vaelite.reader_study.blinding import LEAK_P, blinding_table, check_blinding, leak_table, left_out
from vaelite.reader_study.panel import NOTE, ReaderPanel
from vaelite.reader_study.statistics import (
    guesses,
    hodges_lehmann,
    icc,
    patients_needed,
    power,
    reader_report,
    reader_tables,
    weighted_kappa,
)
from vaelite.reader_study.study import MARGIN, Pair, leak_test, make_study, slice_pairs
from vaelite.translate import Translator

ROOT = Path(__file__).parents[1]


def pairs_of(patients: int, slices: int, size: int = 32, seed: int = 0) -> list[Pair]:
    """Discs: a noisy "scan" in noisy air, and the smooth image a network would make of it in clean air."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - size / 2
    body = np.broadcast_to(np.hypot(x, y) < 0.35 * size, (3, size, size))
    smooth = np.where(body, 0.3 * np.cos(x / 3), -1.0).astype(np.float32)
    return [Pair(f"patient {p}", z, (smooth + np.abs(generator.normal(0, 0.2, body.shape))).clip(-1, 1), smooth, body)
            for p in range(patients) for z in range(slices)]


@pytest.fixture
def study(tmp_path):
    """Three patients, four slices: 24 pictures and three repeats."""
    return make_study(tmp_path / "study", pairs_of(3, 4), "T2w", seed=1)


def key_of(study) -> dict[str, dict]:
    return {entry["picture"]: entry for entry in json.loads(study.key_file.read_text())["pictures"]}


def scripted(study, name: str) -> dict[str, int | str]:
    """What a reader who always sees the truth would say: a program for tests, never a result."""
    real = key_of(study)[name]["real"]
    return dict.fromkeys(CRITERIA, 4 if real else 3) | {"looks": "real" if real else "synthetic", "confidence": 3}


def answer_all(study, reader: str) -> None:
    for name, question in study.missing(reader):
        study.answer(reader, name, question, scripted(study, name)[question])


# ---------------------------------------------------------------------------------------------------------------- design
def test_every_slice_is_shown_real_and_synthetic_and_a_tenth_of_all_twice(study):
    key = key_of(study)
    first = [(e["patient"], e["slice"], e["real"]) for e in key.values() if e["repeat_of"] is None]
    assert sorted(first) == sorted(itertools.product(["patient 0", "patient 1", "patient 2"], range(4), [False, True]))
    repeats = [entry for entry in key.values() if entry["repeat_of"]]
    assert len(repeats) == 3 and set(study.order) == set(key), "3 is the first number above a tenth of 24"
    assert all(study.picture(e["picture"]) == study.picture(e["repeat_of"]) != e["picture"] for e in repeats)


def test_what_a_reader_gets_holds_no_hint(study):
    names = {path.name for path in study.folder.rglob("*") if path.is_file()}
    assert names == {"study.json", *(f"{name}.png" for name in study.order)}, "no key, no other file"
    assert set(json.loads((study.folder / "study.json").read_text())) == {"format", "target", "order", "key_sha256"}
    files = [study.picture(name) for name in study.order]
    images = [Image.open(io.BytesIO(file)) for file in files]
    assert len({len(file) for file in files}) == 1, "a smoother picture is no smaller file"
    assert {(image.size, image.mode, str(image.info)) for image in images} == {(images[0].size, "L", "{}")}


def test_air_is_black_in_both_and_the_body_is_not(study):
    for name in study.order:
        grey = np.asarray(Image.open(io.BytesIO(study.picture(name))))
        corner = grey[:2 * MARGIN, :2 * MARGIN]
        assert corner.max() == 0 and grey.max() > 100


def test_the_same_seed_makes_the_same_study_and_another_seed_another(study, tmp_path):
    again = make_study(tmp_path / "again", pairs_of(3, 4), "T2w", seed=1)
    other = make_study(tmp_path / "other", pairs_of(3, 4), "T2w", seed=2)
    assert (again.order, again.key_sha256) == (study.order, study.key_sha256)
    assert not set(other.order) & set(study.order) and other.key_sha256 != study.key_sha256


def test_showings_of_one_slice_are_apart(study):
    slices = [(key_of(study)[name]["patient"], key_of(study)[name]["slice"]) for name in study.order]
    assert all(a != b for a, b in zip(slices, slices[1:] + slices[:1]))


def test_readers_start_at_different_places_of_one_circle(study):
    orders = [study.order_for(reader) for reader in ("anna", "ben", "chris", "dora")]
    assert len({order[0] for order in orders}) > 1
    circle = list(study.order) * 2
    assert all(circle[circle.index(order[0]):][:len(order)] == order for order in orders)


def test_making_it_again_opens_it_and_keeps_the_answers(study):
    study.answer("anna", study.order[0], "quality", 2)
    again = make_study(study.folder, pairs_of(3, 4), "T2w", seed=1)
    assert again.answers("anna") == {study.order[0]: {"quality": 2}}


@pytest.mark.parametrize("changed", [{"seed": 3}, {"repeat_share": 0.5}, {"pairs": pairs_of(3, 4, seed=9)}],
                         ids=["seed", "repeats", "network"])
def test_a_folder_with_another_study_is_refused(study, changed):
    with pytest.raises(VaeliteError, match="holds another study"):
        make_study(study.folder, **{"pairs": pairs_of(3, 4), "target": "T2w", "seed": 1} | changed)


def test_a_folder_that_is_no_study_is_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(VaeliteError, match="no reader study"):
        make_study(tmp_path / "photos", pairs_of(1, 2), "T2w")
    assert list((tmp_path / "photos").iterdir()) == []


@pytest.mark.parametrize(("arguments", "message"), [
    ({"pairs": []}, "at least one pair"), ({"repeat_share": 0.05}, "repeat_share"),
    ({"pairs": [*pairs_of(1, 2), *pairs_of(1, 1, size=40)]}, "sizes"),
    ({"pairs": [replace(pair, synthetic=pair.synthetic * np.nan) for pair in pairs_of(1, 2)]}, "not finite")])
def test_a_study_that_could_say_nothing_is_refused(tmp_path, arguments, message):
    with pytest.raises(VaeliteError, match=message):
        make_study(tmp_path / "study", **{"pairs": pairs_of(1, 2), "target": "T2w"} | arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_crash_while_making_leaves_no_half_study(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("os.replace", full)
        with pytest.raises(VaeliteError, match="No space"):
            make_study(tmp_path / "study", pairs_of(1, 2), "T2w")
    assert list(tmp_path.iterdir()) == []
    assert len(make_study(tmp_path / "study", pairs_of(1, 2), "T2w").order) == 5


def test_pairs_are_neighbouring_slices_of_test_patients_alone(tiny_set):
    cases = load_cases(tiny_set)
    translator = Translator(VAE(VAEConfig()), None, None, 32, MODALITIES, ("T1c>T2w",))
    pairs = slice_pairs(translator, cases, "T1c", "T2w", per_patient=3, method="copy")
    assert {pair.patient for pair in pairs} == {case.patient for case in cases if case.split == "test"}
    assert len(pairs) == 3 and all(pair.real.shape == pair.synthetic.shape == pair.body.shape == (3, 32, 32) for pair in pairs)
    with pytest.raises(VaeliteError, match="No test patient"):
        slice_pairs(translator, [case for case in cases if case.split == "train"], "T1c", "T2w", method="copy")


# ----------------------------------------------------------------------------------------------------------------- leaks
def pictures(study) -> tuple[dict[str, bytes], list[str], dict[str, bool]]:
    real = {name: entry["real"] for name, entry in key_of(study).items() if entry["repeat_of"] is None}
    return {name: study.picture(name) for name in study.order}, list(study.order), real


def saved_again(file: bytes, **options) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(file)).save(buffer, "PNG", **options)
    return buffer.getvalue()


def note() -> PngImagePlugin.PngInfo:
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", "network 1.0")
    return text


def brighter_edge(file: bytes) -> bytes:
    grey = np.asarray(Image.open(io.BytesIO(file))).copy()
    grey[0] += 1                                             # one grey level of 255: nobody sees it
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def test_a_study_is_at_chance_by_its_files(study):
    table = {row["hint"]: row for row in blinding_table(*pictures(study))}
    assert set(table) == {"header", "border", "order"} and all(row["n"] == 24 for row in table.values())
    assert table["header"]["constant"] and table["border"]["constant"], "the same in every picture"
    assert table["order"]["p"] > 0.001


@pytest.mark.parametrize("leak", [lambda file: saved_again(file, compress_level=0, pnginfo=note()), saved_again, brighter_edge],
                         ids=["metadata", "compressed", "border"])
def test_a_planted_leak_is_found(study, leak):
    files, order, real = pictures(study)
    check_blinding(files, order, real)
    planted = {name: file if real.get(name, True) else leak(file) for name, file in files.items()}
    with pytest.raises(VaeliteError, match="not blind"):
        check_blinding(planted, order, real)


def test_an_order_that_shows_all_real_first_is_found(study):
    files, order, real = pictures(study)
    with pytest.raises(VaeliteError, match="the order of the files alone"):
        check_blinding(files, sorted(order, key=lambda name: real.get(name, False)), real)


def test_noise_in_air_gives_the_scan_away_unless_air_is_black(tmp_path):
    everywhere = [replace(pair, body=np.ones_like(pair.body)) for pair in pairs_of(3, 4)]
    with pytest.raises(VaeliteError, match="the border of the files alone"):
        make_study(tmp_path / "study", everywhere, "T2w")
    assert list(tmp_path.iterdir()) == []


def test_the_left_out_predictions_are_those_of_scikit_learn():
    generator = np.random.default_rng(0)
    x, label = generator.normal(size=(20, 3)), np.repeat([1.0, -1.0], 10)
    wanted = cross_val_predict(Ridge(alpha=0.5, fit_intercept=False), x, label, cv=LeaveOneOut())
    np.testing.assert_allclose(left_out(x, label, ridge=0.5), wanted, rtol=1e-9)


# --------------------------------------------------------------------------------------------------------------- answers
def test_each_answer_is_on_the_disk_at_once_and_the_last_one_counts(study):
    name = study.order[0]
    for value in (2, 5):
        study.answer("anna", name, "quality", value)
        assert json.loads(study.answers_file("anna").read_text().splitlines()[-1])["value"] == value
    assert open_study(study.folder).answers("anna") == {name: {"quality": 5}}
    assert len(study.answers_file("anna").read_text().splitlines()) == 2, "a change of mind is kept, not overwritten"


@pytest.mark.parametrize("answer", [("quality", 6), ("quality", 0), ("quality", True), ("quality", "5"), ("looks", 1),
                                    ("beauty", 3)])
def test_an_answer_out_of_scale_is_not_saved(study, answer):
    with pytest.raises(VaeliteError, match="not saved"):
        study.answer("anna", study.order[0], *answer)
    assert study.readers() == []


@pytest.mark.parametrize("name", ["", "../anna", "an na", "-", "a" * 41])
def test_a_name_that_is_no_file_name_is_refused(study, name):
    with pytest.raises(VaeliteError, match="reader's name"):
        study.answer(name, study.order[0], "quality", 3)


def test_a_last_line_cut_off_anywhere_costs_one_click_and_no_more(study):
    first, second = study.order[:2]
    study.answer("anna", first, "quality", 4)
    kept = study.answers_file("anna").read_bytes()
    study.answer("anna", second, "quality", 5)
    whole = study.answers_file("anna").read_bytes()
    for cut in range(len(kept), len(whole)):
        study.answers_file("anna").write_bytes(whole[:cut])
        assert study.answers("anna") == {first: {"quality": 4}}
        study.answer("anna", second, "quality", 3)
        assert study.answers("anna") == {first: {"quality": 4}, second: {"quality": 3}}


@pytest.mark.parametrize("damage", [b'{"picture": "00', b"\x00\x00\x00\xff", b"[1, 2]",
                                    b'{"picture": "none", "question": "quality", "value": 3}',
                                    b'{"question": ["quality"], "picture": "PICTURE", "value": 3}',
                                    b'{"picture": "PICTURE", "question": "quality", "value": 9}'],
                         ids=["half a line", "zeros", "a list", "picture", "question", "value"])
def test_any_other_damaged_line_is_refused_with_file_and_line(study, damage):
    for value in (1, 2, 3):
        study.answer("anna", study.order[0], "quality", value)
    file = study.answers_file("anna")
    lines = file.read_bytes().splitlines()
    lines[1] = damage.replace(b"PICTURE", study.order[0].encode())
    file.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(VaeliteError, match=r"anna\.jsonl, line 2: "):
        study.answers("anna")
    with pytest.raises(VaeliteError, match="line 2"):
        study.answer("anna", study.order[0], "quality", 4)


def test_nothing_can_be_locked_before_it_is_complete_or_changed_after(study):
    study.answer("anna", study.order[0], "quality", 4)
    with pytest.raises(VaeliteError, match=f"{7 * len(study.order) - 1} answers are missing"):
        study.lock("anna")
    answer_all(study, "anna")
    study.lock("anna")
    with pytest.raises(VaeliteError, match="locked"):
        study.answer("anna", study.order[0], "quality", 1)
    with pytest.raises(VaeliteError, match="locked"):
        study.lock("anna")
    file = study.answers_file("anna")
    file.write_bytes(file.read_bytes().replace(b'"value": 4', b'"value": 5', 1))
    with pytest.raises(VaeliteError, match="changed after its reader locked it"):
        study.unblind()


def test_the_key_opens_only_when_every_reader_has_locked_and_then_nobody_can_join(study):
    with pytest.raises(VaeliteError, match="nobody has answered"):
        study.unblind()
    answer_all(study, "anna")
    study.lock("anna")
    study.answer("ben", study.order[0], "quality", 4)
    with pytest.raises(VaeliteError, match="not locked by ben"):
        study.unblind()
    answer_all(study, "ben")
    study.lock("ben")
    rows = study.unblind()
    assert len(rows) == 2 * 27 and {row["reader"] for row in rows} == {"anna", "ben"}
    assert all((row["looks"] == "real") == row["real"] for row in rows)
    with pytest.raises(VaeliteError, match="unblinded"):
        study.answer("chris", study.order[0], "quality", 4)
    assert study.unblind() == rows


def test_another_key_and_no_key_are_refused(study, tmp_path):
    answer_all(study, "anna")
    study.lock("anna")
    other = make_study(tmp_path / "other", pairs_of(3, 4), "T2w", seed=2)
    with pytest.raises(VaeliteError, match="not the key"):
        study.unblind(other.key_file)
    with pytest.raises(VaeliteError, match="key is not here"):
        study.unblind(tmp_path / "lost.key.json")
    assert not study.is_unblinded()


# ----------------------------------------------------------------------------------------------------------------- panel
def fill_in(panel: ReaderPanel, most: int | None = None) -> int:
    """Choose with the panel's own controls, up to `most` choices -> how many were made."""
    made = 0
    while True:
        for question, control in panel.questions.items():
            if control.value is None:
                if made == most:
                    return made
                control.value = scripted(panel.study, panel.order[panel.at])[question]
                made += 1
        if panel.next.disabled:
            return made
        panel.next.click()


KILLED = """
import os, signal, sys
sys.path[:0] = [{root!r}, {tests!r}]
from test_reader_study import fill_in, open_study, ReaderPanel
fill_in(ReaderPanel(open_study({folder!r}), "anna"), 17)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_whole_way_of_a_reader_with_a_killed_kernel_on_it(study):
    """Make, answer, kill, resume, lock, unblind, statistics; the reader is a program that knows the key."""
    code = KILLED.format(root=str(ROOT), tests=str(ROOT / "tests"), folder=str(study.folder))
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == -signal.SIGKILL
    panel = ReaderPanel(open_study(study.folder), "anna")
    assert panel.at == 2 and [c.value is None for c in panel.questions.values()] == [False] * 3 + [True] * 4, "17 = 2 x 7 + 3"
    assert panel.next.disabled and panel.lock.disabled
    assert fill_in(panel) == 7 * len(study.order) - 17
    panel.lock.click()
    assert study.is_locked("anna") and all(control.disabled for control in panel.questions.values())

    report = reader_report(study.unblind())
    assert {row["shift"] for row in report["criteria"]} == {-1.0} and {row["n"] for row in report["criteria"]} == {3}
    assert [row["kappa_intra"] in (1.0, None) for row in report["criteria"]] == [True] * 5
    guess, = report["guesses"]
    assert (guess["correct"], guess["n"], guess["auc"]) == (24, 24, 1.0)
    assert "24 of 24" in reader_tables(report) and "ICC" in reader_tables(report)


def test_a_panel_that_nobody_touches_leaves_no_file_and_a_page_shows_its_picture(study):
    before = sorted(study.folder.rglob("*"))
    panel = ReaderPanel(study, "anna")
    bundle = panel._repr_mimebundle_()
    assert sorted(study.folder.rglob("*")) == before
    assert bundle["image/png"] and NOTE in bundle["text/html"] and "T2w" in bundle["text/plain"]
    at_rest, shown = (Image.open(io.BytesIO(png)) for png in (panel.first_png, study.picture(study.order_for("anna")[0])))
    assert at_rest.width >= 600 > 3 * shown.height, "large enough for a page, whatever the size of the study's pictures"
    assert panel.shown.value == study.picture(study.order_for("anna")[0]), "the reader himself sees the file as it is"


def test_the_leak_test_of_a_study_not_written_is_that_of_the_study(study):
    trials = leak_test(pairs_of(3, 4), "T2w", seed=1)
    assert trials["air black"] == blinding_table(*pictures(study))
    p = {row["hint"]: row["p"] for row in trials["air as it is"]}
    assert p["border"] < LEAK_P < trials["air black"][1]["p"], "a scan's air is noisy, a network's is clean"
    lines = leak_table(trials).splitlines()
    assert [line.count("refused") for line in lines if line.startswith("| border")] == [1]


def test_going_back_shows_what_was_answered_and_saves_nothing(study):
    panel = ReaderPanel(study, "anna")
    fill_in(panel, 10)
    lines = study.answers_file("anna").read_bytes()
    panel.back.click()
    assert panel.questions["looks"].value == scripted(study, panel.order[0])["looks"]
    panel.next.click()
    assert study.answers_file("anna").read_bytes() == lines
    assert f"Picture 2 of {len(study.order)}" in panel.status.value and "4 of 7 questions open" in panel.status.value


def test_every_control_is_a_native_one_with_its_scale_in_words(study):
    """Buttons are reached by Tab and pressed by space. Radio buttons are not enough: JupyterLab takes the arrow keys."""
    panel = ReaderPanel(study, "anna")
    assert {type(control) for control in panel.questions.values()} == {widgets.ToggleButtons}
    assert all(control.tabbable is not False for control in panel.questions.values())
    for name, control in panel.questions.items():
        assert control.tooltip == QUESTIONS[name].text and all(len(label) > 3 for label, _ in control.options)
        assert [value for _, value in control.options] == list(QUESTIONS[name].answers)
    assert all(list(QUESTIONS[name].answers) == [1, 2, 3, 4, 5] for name in CRITERIA)
    assert all(button.description for button in (panel.back, panel.next, panel.lock))
    assert panel.shown.tooltip is None, "JupyterLab cannot show an Image that has a tooltip"


def test_what_cannot_be_saved_is_said_in_the_panel_and_raised(study):
    panel = ReaderPanel(study, "anna")
    study.answers_file("anna").write_bytes(b"damaged\n")
    with pytest.raises(VaeliteError, match="line 1"):
        panel.questions["quality"].value = 3
    assert 'role="alert"' in panel.problem.value and "line 1" in panel.problem.value


# ------------------------------------------------------------------------------------------------------------ statistics
DEPRESSION = (np.array([0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29])
              - np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]))
JUDGES = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float)


def test_shift_interval_and_p_of_hollander_and_wolfe():
    """Hollander and Wolfe 1973, example 3.1 and its continuations: Hamilton's factor IV before and after a tranquiliser."""
    shift, low, high, confidence = hodges_lehmann(DEPRESSION)
    assert (shift, low, high) == pytest.approx((-0.46, -0.786, -0.010), abs=5e-4) and confidence == pytest.approx(0.961, abs=5e-4)
    assert signed_rank_p(DEPRESSION) == pytest.approx(2 * 10 / 2**9)         # their one-sided 0.0195, doubled


def test_the_interval_holds_the_shifts_that_the_test_does_not_reject():
    values = np.random.default_rng(3).normal(0.4, 1, 12)
    _, low, high, confidence = hodges_lehmann(values)
    for bound, inside in ((low, 1), (high, -1)):
        for step, rejected in ((1e-6 * inside, False), (-1e-6 * inside, True)):
            p = stats.wilcoxon(values - bound - step, method="exact").pvalue
            assert (p < 1 - confidence + 1e-12) == rejected


def test_five_patients_cannot_give_95_percent():
    shift, low, high, confidence = hodges_lehmann(np.array([-1.0, -0.5, 0.0, 0.25, -0.25]))
    assert (low, high) == (-1.0, 0.25) and confidence == pytest.approx(1 - 2 / 32)


def test_p_with_zeros_and_ties_counts_all_signs_of_pratt_ranks():
    values = np.array([0, 0, 0.5, 1, -0.5, 0.5, 1, 0.25, -0.25])
    ranks = stats.rankdata(np.abs(values)) * (values != 0)   # ranked with the zeros, which then weigh nothing
    sums = np.array([np.dot(ranks, signs) for signs in itertools.product((0, 1), repeat=len(values))])
    seen = ranks[values > 0].sum()
    wanted = min(1, 2 * min((sums <= seen).mean(), (sums >= seen).mean()))
    assert signed_rank_p(values) == pytest.approx(wanted)
    assert signed_rank_p(np.zeros(6)) == 1.0


def test_kappa_is_that_of_scikit_learn_and_of_a_table_by_hand():
    generator = np.random.default_rng(4)
    for _ in range(5):
        a = generator.integers(1, 6, 30)
        b = np.clip(a + generator.integers(-1, 2, 30), 1, 5)
        assert weighted_kappa(a, b) == pytest.approx(cohen_kappa_score(a, b, weights="quadratic"), rel=1e-9)
    assert weighted_kappa(np.array([1, 1, 2, 2]), np.array([1, 2, 2, 2])) == pytest.approx(0.5)     # (0.75 - 0.5) / (1 - 0.5)
    assert weighted_kappa(np.array([1, 5, 1, 5]), np.array([5, 1, 5, 1])) == pytest.approx(-1)
    assert weighted_kappa(np.full(4, 3), np.full(4, 3)) is None


def test_icc_is_that_of_shrout_and_fleiss():
    """Shrout and Fleiss 1979, tables 2 and 4: four judges, six targets."""
    assert icc(JUDGES, 1) == pytest.approx(0.29, abs=0.005)
    assert icc(JUDGES, 4) == pytest.approx(0.62, abs=0.005)
    assert icc(JUDGES[:, :1], 1) is None and icc(np.full((4, 3), 2.0), 3) is None
    assert icc(JUDGES[:, [0, 0]], 2) == pytest.approx(1)


def rows_of_readers(patients=8, readers=3, slices=4, shift=-0.5, seed=0) -> list[dict]:
    """Rows as `unblind` gives them, of scripted readers: half of the synthetic slices score one point lower."""
    generator, rows = np.random.default_rng(seed), []
    for p, z, real, r in itertools.product(range(patients), range(slices), (True, False), range(readers)):
        score = 4 - (not real) * (z < -shift * slices)
        rows.append({"reader": f"r{r}", "picture": f"{p}-{z}-{real}", "patient": f"p{p}", "slice": z, "real": real,
                     "repeat_of": None, **dict.fromkeys(CRITERIA, score), "looks": str(generator.choice(["real", "synthetic"])),
                     "confidence": int(generator.integers(1, 4))})
    return rows


def test_a_report_finds_the_planted_shift_and_counts_patients_not_slices():
    report = reader_report(rows_of_readers())
    for row in report["criteria"]:
        assert (row["n"], row["real"], row["synthetic"], row["shift"]) == (8, 4.0, 3.5, -0.5)
        assert row["p"] == pytest.approx(2 / 2**8) and row["p_holm"] == pytest.approx(5 * 2 / 2**8)
        assert row["kappa_inter"] == row["icc_2_1"] == row["icc_2_k"] == pytest.approx(1), "they all see the same"
    more = reader_report(rows_of_readers(slices=12))["criteria"][0]
    assert (more["n"], more["p"]) == (8, pytest.approx(2 / 2**8)), "three times the slices are no more patients"


def test_six_patients_can_never_pass_holm_over_five_criteria():
    assert min(row["p_holm"] for row in reader_report(rows_of_readers(patients=6))["criteria"]) > 0.05
    assert power(6, shift=3.0) == 0


def test_repeats_measure_the_reader_and_do_not_count_as_readings():
    rows = rows_of_readers()
    again = [row | {"picture": "again " + row["picture"], "repeat_of": row["picture"], "quality": 9 - row["quality"] - 2}
             for row in rows[:12]]
    plain, repeated = reader_report(rows)["criteria"][0], reader_report(rows + again)["criteria"][0]
    assert repeated["repeats"] == 12 and plain["kappa_intra"] is None
    wanted = cohen_kappa_score([r["quality"] for r in rows[:12]], [r["quality"] for r in again], weights="quadratic")
    assert repeated["kappa_intra"] == pytest.approx(wanted) and wanted < 0
    assert {k: v for k, v in repeated.items() if k not in ("kappa_intra", "repeats")} == {
        k: v for k, v in plain.items() if k not in ("kappa_intra", "repeats")}


def test_guesses_have_the_exact_interval_and_the_area_of_scikit_learn():
    rows = rows_of_readers()
    found = guesses(rows, "r1")
    own = [row for row in rows if row["reader"] == "r1"]
    k, n = sum((row["looks"] == "real") == row["real"] for row in own), len(own)
    bounds = stats.beta.ppf(0.025, k, n - k + 1), stats.beta.ppf(0.975, k + 1, n - k)     # Clopper and Pearson 1934
    assert (found["correct"], found["n"], found["low"], found["high"]) == (k, n, *map(pytest.approx, bounds))
    p = sum(stats.binom.pmf(i, n, 0.5) for i in range(n + 1) if abs(i - n / 2) >= abs(k - n / 2))
    assert found["p"] == pytest.approx(p)
    belief = [row["confidence"] * (1 if row["looks"] == "real" else -1) for row in own]
    assert found["auc"] == pytest.approx(roc_auc_score([row["real"] for row in own], belief))


def test_no_answers_no_report():
    with pytest.raises(VaeliteError, match="no answers"):
        reader_report([])


# ----------------------------------------------------------------------------------------------------------------- power
def test_without_a_shift_the_test_errs_as_often_as_it_says():
    assert power(20, shift=0.0, alpha=0.05, trials=4000) == pytest.approx(0.05, abs=0.015)


def test_power_grows_with_patients_readers_and_shift():
    assert power(10) < power(20) < power(40) and power(20, readers=1) < power(20, readers=5)
    assert power(20, shift=0.25) < power(20) < power(20, shift=1.0)


def test_power_is_near_that_of_a_t_test_of_the_same_scatter():
    """Signed rank needs pi/3 times the patients of Student's t on normal data (Pitman); rounding adds 1/12 of variance."""
    patients, readers, slices = 25, 2, 4
    sd = np.sqrt(0.5**2 + 2 * (0.7**2 + 1 / 12) / (readers * slices))
    critical = stats.t.ppf(0.995, patients - 1)
    of_t = stats.nct.sf(critical, patients - 1, 0.5 * np.sqrt(patients * 3 / np.pi) / sd)
    assert power(patients, readers=readers, slices=slices) == pytest.approx(of_t, abs=0.06)


def test_patients_needed_reach_the_power_and_one_less_does_not():
    needed = patients_needed(readers=3)
    assert power(needed, readers=3) >= 0.8 > power(needed - 1, readers=3)
    assert patients_needed(most=10) is None
