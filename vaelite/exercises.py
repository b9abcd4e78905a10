"""The checks of the lessons' exercises.

A check takes the student's function and tries it on small cases with a known answer. It returns "not attempted yet" for a
stub, which returns None, and "correct" for a right answer, however it is written. It raises AssertionError for a wrong one;
the message is a hint.  The order matters: a mistake often made must meet its own hint before a general one.
"""
from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch


def hints_only(check: Callable[[Callable], str]) -> Callable[[Callable], str]:
    """The same check; a wrong answer shows its hint, not the lines of the check, which hold the right one."""
    @functools.wraps(check)
    def checked(answer: Callable) -> str:
        try:
            return check(answer)
        except AssertionError as wrong:
            cause = wrong.__cause__                          # what Python said, should the hint have guessed wrong
            hint = str(wrong) + (f" (Python says: {type(cause).__name__}: {cause})" if cause else "")
        raise AssertionError(hint)

    return checked


# Lesson 01: a patch projected on its patterns, a draw from a posterior, what the posterior costs
@hints_only
def check_projection(project: Callable) -> str:
    """Accepts project(patch, mean, components) -> the patch that the mean and the patterns can carry, (d,)."""
    mean, components = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([[0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    try:
        found = project(mean, mean, components)
    except RuntimeError as error:
        raise AssertionError("shapes do not fit: components @ p turns d numbers into k, components.T @ z k into d") from error
    if found is None:
        return "not attempted yet"
    assert found.shape == mean.shape, f"a patch has {tuple(mean.shape)} numbers, yours {tuple(found.shape)}"
    assert torch.allclose(found, mean), "the mean patch must come back as it is: subtract the mean first, add it last"
    inside = mean + 2 * components[0] - components[1]
    assert torch.allclose(project(inside, mean, components), inside), "a sum of the patterns must come back unchanged"
    outside = mean + torch.tensor([0.8, -0.6, 0.0])          # at right angles to both patterns
    assert torch.allclose(project(outside, mean, components), mean), "what no pattern carries must be lost"
    return "correct"


@hints_only
def check_sample(sample: Callable) -> str:
    """Accepts sample(mean, logvar, noise) -> mean + sigma * noise, for tensors of any shape, differentiable."""
    def z(*numbers):                                         # tensors go in, as in training
        return sample(*(torch.tensor(number, dtype=torch.double) for number in numbers))

    if z(0.0, 0.0, 1.0) is None:
        return "not attempted yet"
    assert abs(z(0.0, 0.0, 2.0) + 2) > 1e-9, "mean - sigma * noise draws the same cloud, but the sign is meant: the formula adds"
    assert abs(z(3.0, 0.0, 0.0) - 3) < 1e-9, "without noise, z is the mean"
    assert abs(z(0.0, 0.0, 2.0) - 2) < 1e-9, "logvar 0 means sigma 1: the noise passes unchanged"
    assert abs(z(0.0, math.log(9), 1.0) - 3) < 1e-9, "variance 9 is sigma 3: take half of logvar before exp"
    assert abs(z(5.0, math.log(9), -1.0) - 2) < 1e-9, "the mean is added to the noise, and noise has a sign"
    two = torch.zeros(2, dtype=torch.double, requires_grad=True)
    try:
        (slope,) = torch.autograd.grad(sample(torch.ones(2), two, torch.tensor([2.0, 4.0])).sum(), two)
    except (RuntimeError, TypeError, ValueError) as error:
        raise AssertionError("two latents at once, to be differentiated: nothing detached, and torch.exp, which takes a tensor, "
                             "not math.exp, which takes a number") from error
    assert slope.abs().sum() > 0, "nothing may be detached: z has to follow mean and logvar"
    assert slope.tolist() == [1, 2], "the slope along logvar is sigma * noise / 2: nothing may be detached"
    return "correct"


@hints_only
def check_kl(kl: Callable) -> str:
    """Accepts kl(mu, logvar) -> the divergence of N(mu, sigma^2) from N(0, 1) in nats, for tensors of any shape."""
    def nats(*numbers):                                      # tensors go in, as in training
        return kl(*(torch.tensor(number, dtype=torch.double) for number in numbers))

    try:
        prior, _ = nats(0.0, 0.0), kl(torch.zeros(2), torch.zeros(2))
    except (RuntimeError, TypeError, ValueError) as error:
        raise AssertionError("two latents at once: torch.exp takes a tensor, math.exp a number") from error
    if prior is None:
        return "not attempted yet"
    assert math.isfinite(prior), "logvar is the logarithm already: no second log, and 0 stands for a variance of 1"
    two = kl(torch.zeros(2), torch.tensor([0.0, 1.0]))
    assert np.shape(two) == (2,), "two latents cost two numbers: neither their sum nor their mean"
    assert abs(prior) < 1e-9, f"the prior costs 0 nats: {'where is the - 1?' if prior > 0 else 'is sigma^2 = exp(logvar) added?'}"
    assert abs(nats(1.0, 0.0) - 0.5) < 1e-9, "moving mu by one sigma costs half a nat"
    assert abs(nats(2.0, 0.0) - 2) < 1e-9, f"mu = 2 costs 2^2 / 2 = 2 nats, not {float(nats(2.0, 0.0)):.3g}: square mu"
    assert nats(0.0, math.log(0.01)) > 0, "a divergence is never negative: look at the sign of logvar"
    wide = nats(0.0, math.log(4))
    assert abs(wide - 1.1534) > 1e-3, "the last term is log sigma^2, which is logvar itself; yours is log sigma, half of it"
    assert abs(wide - 0.8069) < 1e-3, f"sigma 2 costs (4 - 1 - ln 4) / 2 = 0.807 nat, not {wide:.3f}: exp(logvar) is sigma^2"
    z = 0.5 + 0.2 * torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    log_ratio = -0.5 * ((z - 0.5) / 0.2) ** 2 - math.log(0.2) + 0.5 * z**2
    difference = abs(float(nats(0.5, math.log(0.04)) - log_ratio.mean()))
    assert difference < 0.02, f"200,000 draws disagree by {difference:.2f} nat: sigma^2 is exp(logvar); all terms?"
    return "correct"


# Lesson 02: a line by least squares, attention, skill
@hints_only
def check_least_squares(fit: Callable) -> str:
    """Accepts fit(x, y) -> the weights of least squares and, as the last, the intercept, (p + 1,)."""
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0]], dtype=torch.double)
    try:
        weights = fit(x, 2 * x[:, 0] - 3 * x[:, 1])
    except (RuntimeError, IndexError) as error:
        raise AssertionError("shapes do not fit: ones make a column (n, 1), and solve wants a square X.T @ X, not X") from error
    if weights is None:
        return "not attempted yet"
    assert weights.shape == (3,), f"2 weights and 1 intercept make 3 numbers, yours have shape {tuple(weights.shape)}"
    wanted = torch.tensor([2.0, -3.0, 0.0], dtype=torch.double)
    assert torch.allclose(weights, wanted), f"y = 2 a - 3 b gives (2, -3, 0), you found {weights.tolist()}"
    lifted = fit(x, 2 * x[:, 0] - 3 * x[:, 1] + 5)
    assert abs(lifted[2] - 5) < 1e-6, "y + 5 must raise the intercept to 5: add a column of ones to x, as the last"
    noise = torch.tensor([1.0, -1.0, 1.0, -1.0, 0.5], dtype=torch.double)
    residual = noise - torch.cat([x, torch.ones(5, 1, dtype=torch.double)], 1) @ fit(x, noise)
    assert (x.T @ residual).abs().max() < 1e-6, "the residual must be at right angles to each column of x"
    return "correct"


@hints_only
def check_attention(attend: Callable) -> str:
    """Accepts attend(q, k, v) -> for each question the mean of the values, weighted by softmax(q @ k.T / sqrt(d)), (n, c)."""
    v = torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    try:
        found = attend(torch.zeros(3, 4), torch.ones(3, 4), v)
    except RuntimeError as error:
        raise AssertionError("shapes do not fit: q @ k.T is (n, n), a row for each question; weights @ v is (n, c)") from error
    if found is None:
        return "not attempted yet"
    assert found.shape == v.shape, f"3 tokens ask for 2 numbers each; yours has shape {tuple(found.shape)}"
    q = torch.tensor([[4.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    k = torch.tensor([[1.0, 0.5, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 3.0, 2.0]])
    swapped = torch.softmax(k @ q.T / 2, 1) @ v
    assert not torch.allclose(attend(q, k, v), swapped), "row i of q asks, the rows of k answer: q @ k.T, not k @ q.T"
    late = torch.softmax(q @ k.T, 1) @ v / 2                 # / sqrt(4)
    assert not torch.allclose(attend(q, k, v), late), "sqrt(d) belongs inside the exp: divided later, the weights no longer sum to 1"
    assert torch.allclose(found, v.mean(0).expand(3, 2)), "a question of zeros weighs all values alike: 1/n each"
    same = attend(torch.eye(3, 4), torch.arange(12.0).view(3, 4), torch.ones(3, 2))
    assert torch.allclose(same, torch.ones(3, 2)), "each ROW holds one question: its weights, over the keys, sum to 1"
    first = torch.softmax(torch.tensor([2.0, 0.0, 0.0]), 0) @ v    # 4 * 1 / sqrt(4) = 2
    assert torch.allclose(attend(q, k, v)[0], first), "divide q . k by sqrt(d), here sqrt(4), before the exp"
    wanted = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None])[0]
    assert torch.allclose(attend(q, k, v), wanted, atol=1e-6), "row i of q asks, the rows of k answer: q @ k.T"
    return "correct"


@hints_only
def check_skill(skill: Callable) -> str:
    """Accepts skill(error, error_of_copy) -> the share of the error of copying that is gone: 1 is perfect."""
    if skill(50.0, 100.0) is None:
        return "not attempted yet"
    hints = {0.25: "error / error_of_copy is what is left; skill is what is gone: 1 minus it",
             60.0: "the difference has a unit: divide it by the error of copying",
             -0.75: "(error - copy) / copy has the sign turned: less error is more skill",
             3.0: "divide by the error of copying, not by the error", 4.0: "turned over, and then 1 minus it",
             -3.0: "error / error_of_copy, not turned over", 75.0: "right, but as a percentage: 1 is perfect, not 100"}
    found = float(skill(20.0, 80.0))
    assert found not in hints, f"error 20, copying 80: {hints.get(found)}"
    assert abs(found - 0.75) < 1e-9, f"a quarter of the error of copying is skill 0.75, yours {found:.3g}: no square, no factor"
    assert abs(skill(0.0, 80.0) - 1) < 1e-9, "no error is skill 1"
    assert abs(skill(80.0, 80.0)) < 1e-9, "as good as copying is skill 0"
    assert skill(90.0, 80.0) < 0, "worse than copying must show as a negative number"
    return "correct"


# Lesson 03: the constant that L1 wants, SSIM of one window, the choice of a decoder
@hints_only
def check_best_constant(best: Callable) -> str:
    """Accepts best(samples) -> a number with the least mean absolute difference to the samples, (n,)."""
    toy = np.repeat([-1.0, 0.2], [6, 4])                     # the lesson's 60 % and 40 %, few enough to be printed
    if best(toy) is None:
        return "not attempted yet"
    assert np.ndim(best(toy)) == 0, "return one number for all samples"
    others = ([0.0, 1.0, 10.0], [3.0, -2.0, 5.0, 0.5, 7.0], [4.0, 0.0, 0.0, 0.0, 1.0])
    for samples in (toy, *map(np.array, others)):
        reached = np.abs(samples - best(samples)).mean()
        possible = min(np.abs(samples - s).mean() for s in samples)
        assert reached <= possible + 1e-9, (
            f"for {samples.tolist()} you reach {reached:.3f}, but {possible:.3f} is possible. Move c a little: how many samples "
            "come nearer, how many get farther? Count those on either side of c: moving towards the larger group lowers the sum")
    return "correct"


@hints_only
def check_ssim(ssim: Callable) -> str:
    """Accepts ssim(mean_x, mean_y, var_x, var_y, covariance, c1, c2) -> SSIM of one window, brightness times structure."""
    same = ssim(0.5, 0.5, 0.2, 0.2, 0.2)
    if same is None:
        return "not attempted yet"
    assert np.ndim(same) == 0, "return one number for the window"
    with np.errstate(invalid="ignore", divide="ignore"):
        black = ssim(*np.zeros(5))
    assert abs(black - 1) < 1e-9, "two flat, black windows: c1 and c2 stand above and below, or it is 0 / 0"
    assert abs(same - 1) < 1e-6, f"a window equals itself: 1, not {same:.3f} (where do the factors 2 belong?)"
    opposed = ssim(0.5, 1.0, 0.2, 0.2, -0.2)                 # factors 0.8 and -1: only their mean is -0.1
    assert abs(opposed + 0.1) > 1e-3, "the two factors are multiplied, not averaged: 0.8 and -1 make -0.8, not -0.1"
    assert ssim(0.0, 0.0, 0.2, 0.2, -0.2) < -0.99, "turned inside out (covariance -0.2): close to -1"
    blurred = ssim(0.5, 0.5, 0.2, 0.05, 0.1)
    assert abs(blurred - 0.8) < 1e-3, f"half the contrast: 2 * 0.1 / (0.2 + 0.05) = 0.8, not {blurred:.3f}"
    brighter = ssim(0.5, 1.0, 0.2, 0.2, 0.2)
    assert abs(brighter - 0.8) < 1e-3, f"twice as bright: 2 * 0.5 / (0.25 + 1) = 0.8, not {brighter:.3f}"
    assert abs(ssim(0.5, 1.0, 0.2, 0.05, 0.1) - 0.64) < 1e-3, "both at once: the two factors are multiplied"
    hint = "use the given c1 and c2, c1 with the means and c2 with the variances: (0 + 1) / (0 + 1 + 1) * 3 / 3 = 0.5"
    assert abs(ssim(0.0, 1.0, 0.0, 0.0, 0.0, c1=1.0, c2=3.0) - 0.5) < 1e-9, hint
    return "correct"


@hints_only
def check_choice(choose: Callable) -> str:
    """Accepts choose({direction: {decoder: error}}) -> {direction: the decoder with the smallest error}."""
    table = {"CBCT>CT": {"mapped": 0.03, "blended": 0.02, "finetuned": 0.04},
             "T1c>CT": {"mapped": 0.09, "blended": 0.08, "finetuned": 0.05},
             "T2w>CT": {"mapped": 0.10, "blended": 0.20, "finetuned": 0.40}}
    chosen = choose(table)
    if chosen is None:
        return "not attempted yet"
    assert set(chosen) == set(table), "one entry for each direction"
    assert set(chosen.values()) <= set(table["CBCT>CT"]), "return the decoder's name, not its error"
    first = {name: min(errors) for name, errors in table.items()}
    assert chosen != first, "min of a dict compares its names: min(e, key=e.get) compares the errors"
    assert chosen["T1c>CT"] == "finetuned", "0.05 is the smallest error: fine-tuned"
    assert chosen["CBCT>CT"] == "blended", "each direction decides for itself, among all three: 0.02 is the smallest"
    turned = {"mapped": "blended", "blended": "finetuned", "finetuned": "mapped"}
    moved = {name: {turned[method]: error for method, error in e.items()} for name, e in table.items()}
    hint = "with the errors moved every choice must move: compare the numbers, not the names, nor with a limit"
    assert choose(moved) == {name: turned[method] for name, method in chosen.items()}, hint
    return "correct"


# Lesson 04: MAE inside the body, transmission through layers, D95, gamma of one point
@hints_only
def check_body_mae(to_body: Callable) -> str:
    """Accepts to_body(grid_mae_hu, body_fraction) -> the MAE inside the body, outside of which the error is 0."""
    half = to_body(10.0, 0.5)
    if half is None:
        return "not attempted yet"
    assert np.ndim(half) == 0, "return one number: the mean error of the body's voxels"
    assert half > 10, "the errors all lie in the body: there the mean is higher, not lower"
    assert abs(to_body(10.0, 0.25) - 40) < 1e-9, "the sum of errors stays; a quarter of the voxels share it"
    assert abs(to_body(22.0, 0.4) - 55) < 1e-9, "22 HU over the grid are 55 HU in a body that fills 40 % of it"
    return "correct"


@hints_only
def check_transmission(through: Callable) -> str:
    """Accepts through(mu_per_cm, thickness_cm) -> the fraction of a beam that comes through all layers, one number."""
    def layers(mu_per_cm, thickness_cm):
        return through(np.array(mu_per_cm), np.array(thickness_cm))

    two = layers([0.05, 0.08], [10.0, 2.0])
    if two is None:
        return "not attempted yet"
    assert np.ndim(two) == 0, f"return one number, not one for each of the 2 layers: {two}"
    assert abs(layers([0.05], [0.0]) - 1) < 1e-9, "no thickness: everything comes through"
    assert abs(layers([0.05], [10.0]) - 0.60653) < 1e-4, "10 cm of 0.05 per cm: exp(-0.5), less than 1"
    assert abs(two - 0.60653 * 0.85214) < 1e-4, "the second layer attenuates what the first let through: multiply"
    assert abs(layers([0.08, 0.05], [2.0, 10.0]) - two) < 1e-9, "the order of the layers does not matter"
    return "correct"


@hints_only
def check_d95(d95: Callable) -> str:
    """Accepts d95(dose_gy) -> the dose that 95 % of the voxels receive at least; any interpolation between voxels."""
    even = np.arange(101.0)                                  # 0, 1, ..., 100 Gy
    if d95(even) is None:
        return "not attempted yet"
    assert np.ndim(d95(even)) == 0, "return one number, in Gy"
    assert abs(d95(np.full(50, 70.0)) - 70) < 1e-9, "the same dose everywhere: D95 is that dose"
    found = d95(even)
    assert found < 50, f"95 % of the voxels must get more than D95, not 5 %; you said {found:.1f} Gy of 0 to 100"
    assert abs(found - 5) < 0.6, f"of 0, 1, ..., 100 Gy, 95 % of the voxels get at least 5 Gy; you said {found:.1f}"
    cold = np.r_[np.full(10, 20.0), np.full(90, 70.0)]
    assert d95(cold) < 21, "10 % of this target are cold, and D95 must show it"
    assert d95(np.r_[0.0, np.full(99, 70.0)]) > 69, "one cold voxel in a hundred is not the minimum's business"
    return "correct"


@hints_only
def check_gamma(gamma: Callable) -> str:
    """Accepts gamma(x_mm, dose_gy, other_x_mm, other_dose_gy, distance_mm, criterion_gy) -> gamma of one point."""
    x = np.arange(0.0, 21.0)
    ramp, flat = 2.0 * x, np.full(21, 30.0)                  # 2 Gy for each mm; 30 Gy everywhere
    found = gamma(10.0, 20.0, x, ramp, 2.0, 1.4)
    if found is None:
        return "not attempted yet"
    assert np.ndim(found) == 0, f"return one number, the smallest, not one for each of the {np.size(found)} points"
    assert abs(found) < 1e-9, "a dose compared with itself: 0"
    one = gamma(10.0, 31.4, x, flat, 2.0, 1.4)
    assert abs(one - 1) < 1e-9, f"flat, 1.4 Gy off: no search helps, gamma is 1, not {one:.2f} (each in units of its criterion)"
    shifted = gamma(10.0, 20.0, x + 1, ramp, 2.0, 1.4)
    assert shifted < 0.5 + 1e-9, f"steep, shifted by 1 mm: the match 1 mm away counts, at most 1/2; not {shifted:.2f}"
    assert shifted > 1e-9, "1 mm away the dose is equal, here the distance is 0: one and the same point must serve both"
    assert abs(shifted - 0.5) < 1e-9, f"half a criterion in mm, nothing in dose: 0.5, not {shifted:.2f} (is there a root?)"
    both = gamma(0.0, 30.0, np.array([1.0]), np.array([31.4]), 2.0, 1.4)
    assert abs(both - np.sqrt(1.25)) < 1e-6, "0.5 and 1 add as sides of a right angle: the root of 0.25 + 1"
    return "correct"
