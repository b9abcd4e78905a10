"""Facts of the phantom's MR: signal equations, contrast agent, and what the scanner adds."""
from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from phantom.grid import Grid, Streams
from phantom.mri import (
    T1_GRADIENT_ECHO,
    T1C,
    T2W,
    GradientEcho,
    MrProtocol,
    MrSettings,
    SpinEcho,
    acquire,
    dephase,
    dim_by_metal,
    displace_readout,
    draw_protocol,
    field_offset_ppm,
    gradient_echo,
    saturate_fat,
    slice_weights,
    spin_echo,
    store,
    through_kspace,
)
from phantom.settings import SHIPPED, load_settings
from phantom.tissues import MODALITY_COLUMNS, TISSUE_ID, TISSUES, draw_tissues, signal_columns

GRID = Grid.of_size(64)
CLEAN = MrSettings(bias=(0, 0), snr=(1e6, 1e6), read_resolution=(1, 1), phase_resolution=(1, 1), slice_mm=(1, 1),
                   ghost=(0, 0), susceptibility=False, chemical_shift=False)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def disc(radius_mm: float = 60.0, grid: Grid = GRID) -> np.ndarray:
    """A cylinder along z, signal 1 inside: (z, y, x)."""
    _, y, x = grid.mesh()
    inside = np.clip(0.5 + (radius_mm - np.hypot(y, x)) / grid.spacing_mm[2], 0, 1)
    return np.repeat(inside.astype(np.float32), grid.shape[0], axis=0)


# ----------------------------------------------------------------------------------------------------- signal equations
@pytest.mark.parametrize(("field", "r1", "r2"), [(3.0, 5.0, 7.1), (1.5, 5.2, 6.1)])
def test_spin_echo_is_the_closed_form(field, r1, r2):
    rate_1, rate_2 = 1 / 1350 + r1 * 0.06 / 1000, 1 / 38 + r2 * 0.06 / 1000
    by_hand = 0.8 * (1 - math.exp(-600 * rate_1)) * math.exp(-11 * rate_2)
    assert spin_echo(1350, 38, 0.8, 0.06, T1C, field) == pytest.approx(by_hand, rel=1e-12)


def test_gradient_echo_is_the_closed_form():
    sequence = GradientEcho(6.0, 2.3, 15)
    e1, flip = math.exp(-6 * (1 / 900 + 5.0 * 0.3 / 1000)), math.radians(15)
    decay = math.exp(-2.3 * (1 / 70 + 7.1 * 0.3 / 1000 + 8.0 * 3.0 / 1000))
    by_hand = 0.7 * math.sin(flip) * (1 - e1) / (1 - e1 * math.cos(flip)) * decay
    assert gradient_echo(900, 70, 0.7, 0.3, sequence, 3.0) == pytest.approx(by_hand, rel=1e-12)


def test_gradient_echo_is_brightest_at_the_ernst_angle():
    t1, repetition = 900.0, 20.0
    ernst = math.degrees(math.acos(math.exp(-repetition / t1)))
    best, *others = (gradient_echo(t1, 70, 1, 0, GradientEcho(repetition, 3, angle)) for angle in
                     (ernst, ernst - 2, ernst + 2))
    assert best > max(others)


def test_gradient_echo_of_ninety_degrees_and_long_repetition_is_a_spin_echo_without_refocusing():
    full = gradient_echo(500, 80, 1, 0, GradientEcho(5000, 10, 90), 1.5)
    refocused = spin_echo(500, 80, 1, 0, SpinEcho(5000, 10), 1.5)
    assert full == pytest.approx(refocused * math.exp(-10 * 8.0 * 1.5 / 1000), rel=1e-6)


@pytest.mark.parametrize("field", [1.5, 3.0])
def test_contrast_is_what_a_radiographer_expects(field):
    columns = dict(zip(MODALITY_COLUMNS, signal_columns(TISSUES, MrProtocol(field_tesla=field)).T, strict=True))
    t1, t2 = ({tissue.name: value for tissue, value in zip(TISSUES, columns[name], strict=True)}
              for name in ("T1c", "T2w"))
    assert t2["csf"] > t2["grey matter"] > t2["white matter"] > t2["muscle"] > t2["cortical bone"]
    assert t1["fat"] > t1["white matter"] > t1["grey matter"] > t1["csf"] > t1["air"]
    assert t1["tumour"] > 1.5 * t1["muscle"] and t1["necrosis"] < 0.5 * t1["tumour"]


def test_t1_grows_with_the_field():
    for tissue in TISSUES:
        assert tissue.t1_at(1.5) <= tissue.t1_at(3.0)
    muscle = TISSUES[TISSUE_ID["muscle"]]
    assert muscle.t1_at(1.5) < 0.8 * muscle.t1_at(3.0)


@pytest.mark.parametrize("sequence", [T1C, T1_GRADIENT_ECHO[3.0]])
def test_t1_brightens_where_gadolinium_went_and_nowhere_else(sequence):
    tissues = draw_tissues(rng())
    column = MODALITY_COLUMNS.index("T1c")
    before, after = (signal_columns(tissues, MrProtocol(t1=sequence, gadolinium=dose)) for dose in (0.0, 1.0))
    gain = (after - before)[:, column]
    seen = before[:, column] > 1e-3                                                     # bone and air give no signal
    took_up = np.array([tissue.gadolinium_mm > 0 for tissue in tissues])
    assert (gain[seen & took_up] > 0).all() and (gain[~took_up] == 0).all()
    assert (after[:, MODALITY_COLUMNS.index("T2w")] == before[:, MODALITY_COLUMNS.index("T2w")]).all()


def test_more_gadolinium_gives_more_signal_up_to_the_usual_dose():
    doses = [signal_columns(TISSUES, MrProtocol(gadolinium=dose))[TISSUE_ID["tumour"], 1] for dose in (0, 0.5, 1, 1.5)]
    assert doses == sorted(doses) and doses[0] < 0.7 * doses[-1]


def test_one_clinic_has_one_kind_of_protocol_and_many_clinics_have_many():
    one = [draw_protocol(Streams(0, index), load_settings().mr) for index in range(20)]
    assert all(p.field_tesla == 3.0 and isinstance(p.t1, SpinEcho) and not p.t1c_fat_saturated for p in one)
    assert all(0.6 <= protocol.gadolinium <= 1.4 for protocol in one)
    many = [draw_protocol(Streams(0, index), load_settings(SHIPPED.with_name("phantom_many_clinics.toml")).mr) for index in range(60)]
    assert {protocol.field_tesla for protocol in many} == {1.5, 3.0}
    assert {type(protocol.t1) for protocol in many} == {SpinEcho, GradientEcho}
    assert {protocol.t1c_fat_saturated for protocol in many} == {protocol.t2w_fat_saturated for protocol in many} == {True, False}


# ------------------------------------------------------------------------------------------------ what the scanner does
def test_the_mean_of_pure_noise_is_that_of_rayleigh():
    """No signal: the magnitude of complex noise has the mean sigma sqrt(pi / 2) (Gudbjartsson and Patz 1995)."""
    for read, phase in ((1.0, 1.0), (0.9, 0.7)):
        picture = np.abs(through_kspace(np.zeros((40, 64, 64), np.float32), rng(), 5.0, read, phase))
        assert picture.mean() == pytest.approx(5.0 * math.sqrt(math.pi / 2), rel=0.01)


def test_noise_in_signal_is_gaussian_with_sigma():
    picture = np.abs(through_kspace(np.full((20, 64, 64), 100, np.float32), rng(), 2.0, 0.9, 0.8))
    assert picture.std() == pytest.approx(2.0, rel=0.05)
    assert picture.mean() == pytest.approx(100 + 2.0 ** 2 / (2 * 100), abs=0.1)          # Rice, high signal


def test_k_space_that_is_whole_changes_nothing():
    signal = disc()
    assert np.abs(through_kspace(signal, rng()) - signal).max() < 1e-5


@pytest.mark.parametrize("phase_axis", [1, 2])
def test_a_truncated_step_overshoots_by_nine_percent(phase_axis):
    """Gibbs: at the edge of a plateau, 9 % of the step whatever the resolution, along the cut direction only."""
    signal = np.zeros((1, 128, 128), np.float32)
    index = [slice(None)] * 3
    index[phase_axis] = slice(40, 88)
    signal[tuple(index)] = 1.0
    for share in (0.3, 0.5):
        picture = through_kspace(signal, rng(), phase=share, phase_axis=phase_axis).real
        assert 1.07 < picture.max() < 1.12
        along, across = np.ptp(picture, axis=phase_axis).max(), np.ptp(picture, axis=3 - phase_axis).max()
        assert along > 1 and across < 1e-5


def test_ghosts_lie_in_phase_direction_and_keep_the_patient():
    signal = np.zeros((1, 128, 128), np.float32)
    signal[:, 56:72, 56:72] = 1.0
    for phase_axis in (1, 2):
        extra = np.abs(through_kspace(signal, rng(), phase_axis=phase_axis, ghost=0.2)) - signal
        background = np.abs(extra[0]) * (signal[0] == 0)
        if phase_axis == 2:
            background = background.T
        assert background[:, 56:72].max() > 0.05                                         # copies above and below
        assert np.delete(background, np.s_[56:72], axis=1).max() < 1e-4                  # none beside
    faint, strong = (np.abs(np.abs(through_kspace(signal, rng(), ghost=a)) - signal).mean() for a in (0.05, 0.2))
    assert strong > 2 * faint > 0


def test_fat_saturation_removes_fat_and_leaves_water():
    water, fat = disc(60) * 0.5, disc(60) * 0.5
    for quality in (0.0, 0.9):
        signal, left = saturate_fat(water + fat, fat, GRID, rng(), quality)
        assert np.allclose(signal - left, water, atol=1e-6)
        assert np.median(left[fat > 0.4]) == pytest.approx(0.5 * (1 - quality), abs=1e-3)
    assert left.max() > 0.3, "somewhere the pulse misses"


def test_chemical_shift_moves_fat_by_3_4_ppm_along_the_readout():
    """At 3 T and 217 Hz per pixel that is two pixels; water stays."""
    fat = np.zeros(GRID.shape, np.float32)
    fat[:, 20:30, 20:30] = 1.0
    settings = replace(CLEAN, chemical_shift=True, bandwidth_hz=3.4 * 42.577 * 3 / 2)
    shifts = set()
    for seed in range(8):                                                                # both readout directions
        moved = acquire(fat, fat, "T2w", GRID, Streams(seed), MrProtocol(), settings)[8] > 1
        stays = acquire(fat, 0 * fat, "T2w", GRID, Streams(seed), MrProtocol(), settings)[8] > 1
        bright = [np.argwhere(picture).mean(axis=0) for picture in (moved, stays)]
        shifts.add(tuple(np.round(bright[0] - bright[1]).astype(int)))
    assert shifts == {(2, 0), (0, 2)}


def test_readout_displacement_keeps_the_total():
    signal = disc(60)
    pixels = np.broadcast_to(1 + np.tanh(GRID.mesh()[2] / 20), GRID.shape).astype(np.float32)  # the right half moves
    moved = displace_readout(signal, pixels, axis=2)
    assert moved[16, 32, 32] < 0.9 < 0.95 < moved[16, 32, 44]                           # thinned where it is stretched
    assert moved.sum() == pytest.approx(signal.sum(), rel=0.02)


def test_the_field_of_an_air_sphere_is_a_dipole():
    """Outside: chi / 3 (a / r)^3 (3 cos^2 - 1), B0 along z; chi of air against tissue 9.4 ppm."""
    grid = Grid((48, 64, 64), (4.0, 4.0, 4.0), -96.0)
    z, y, x = grid.mesh()
    radius = np.sqrt(z ** 2 + y ** 2 + x ** 2)
    field = field_offset_ppm(radius < 20, grid.spacing_mm)
    field = field - field[np.abs(radius - 70) < 5].mean()
    pole, equator = field[(np.abs(radius - 40) < 3) & (np.abs(z) > 0.95 * radius)], \
        field[(np.abs(radius - 40) < 3) & (np.abs(z) < 0.2 * radius)]
    expected = 9.4 / 3 * (20 / 40) ** 3
    assert pole.mean() == pytest.approx(2 * expected, rel=0.2)
    assert equator.mean() == pytest.approx(-expected, rel=0.25)


def test_a_gradient_echo_loses_signal_at_air_and_more_of_it_late_and_in_a_strong_field():
    air = disc(15) > 0.5
    air[:10] = air[22:] = False
    tissue = (~air).astype(np.float32)
    field = field_offset_ppm(air, GRID.spacing_mm)
    kept = [float(dephase(tissue, field, echo, tesla)[~air].mean()) for echo, tesla in
            ((2.3, 1.5), (2.3, 3.0), (10.0, 3.0))]
    assert 1 > kept[0] > kept[1] > kept[2]
    near = dephase(tissue, field, 10.0, 3.0)
    assert near[12:20, 28:36, 36:40].mean() < 0.95 * near[12:20, 5:10, 5:10].mean()


def test_metal_leaves_a_void_and_spares_the_rest():
    distance = np.linspace(0, 60, 61, dtype=np.float32)
    kept = dim_by_metal(np.ones(61, np.float32), distance, void_mm=6.0)
    assert kept[0] == 0 and kept[6] < 0.5 and kept[30] > 0.999 and (np.diff(kept) >= 0).all()
    assert (dim_by_metal(distance, None, 6.0) == distance).all()


def test_slices_average_over_their_thickness_and_keep_the_level():
    grid = Grid.of_size(128)
    to_slices, to_grid = slice_weights(grid, 5.0, 1.0)
    assert np.allclose(to_grid @ to_slices @ np.ones(grid.shape[0]), 1, atol=1e-5)
    ramp = to_grid @ to_slices @ grid.z_mm
    assert np.abs(ramp - grid.z_mm)[3:-3].max() < 0.5                                    # position is kept [mm]
    edge = to_grid @ to_slices @ (grid.z_mm > 0).astype(np.float32)
    assert ((edge > 0.05) & (edge < 0.95)).sum() >= 2                                    # a sharp edge is not
    distance = Grid.of_size(128).spacing_mm[0]
    assert len(to_slices) * 5.0 == pytest.approx(grid.shape[0] * distance, abs=15)


def test_units_are_arbitrary():
    magnitude = disc(60) + 0.01
    assert np.allclose(store(magnitude, 1000, 1.5), store(17 * magnitude, 1000, 1.5), rtol=1e-5)
    scales = [np.percentile(acquire(disc(60), 0 * disc(60), "T1c", GRID, Streams(seed), MrProtocol()), 99.5)
              for seed in range(4)]
    assert max(scales) > 1.3 * min(scales)


def test_a_clean_scanner_shows_the_signal_itself():
    signal = disc(60) * 0.4
    picture = acquire(signal, 0 * signal, "T1c", GRID, Streams(1), MrProtocol(), CLEAN)
    inside = signal > 0.39
    assert picture[inside].std() < 0.005 * picture[inside].mean()
    assert picture[signal == 0].max() < 0.01 * picture.max()
    spoilt = acquire(signal, 0 * signal, "T1c", GRID, Streams(1), MrProtocol())
    assert spoilt[inside].std() > 0.03 * spoilt[inside].mean()


def test_t2w_is_taken_before_the_injection():
    column = MODALITY_COLUMNS.index("T2w")
    plain, contrast = (signal_columns(TISSUES, MrProtocol(gadolinium=dose))[:, column] for dose in (0, 2))
    assert (plain == contrast).all() and T2W.echo_ms > 3 * T1C.echo_ms
