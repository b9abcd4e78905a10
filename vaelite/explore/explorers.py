"""Six explorers of a trained run: latent map, latent walk, morph, translator, attention, fusion.

Each is one call at the end of a cell. What takes a network more than a moment is computed before the first picture, so that
the controls answer at once; `explore` keeps the pictures. A click only moves controls that the keyboard moves too.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import ipywidgets as widgets
import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ..data.intensity import MODALITIES
from ..data.slices import SliceSet, thinned
from ..errors import VaeliteError
from ..figures import body_box
from ..models.vae import VAE, DiagonalGaussian
from ..translate import BATCH, Translator, task_name
from .figures import (
    WINDOWS,
    draw_attention,
    draw_fusion,
    draw_latent_map,
    draw_morph,
    draw_nothing,
    draw_step,
    draw_translator,
    nearest_share,
)
from .panel import Panel, data_at, explore

AT_MOST = 9                                                  # slices that are translated beforehand: seconds, not minutes
WALK_SD = 4.0                                                # beyond it hardly any real slice lies
STEPS = 20                                                   # pictures of a morph, and 5 % each
FRAME_MS = 250                                               # of a morph that plays: longer than a picture takes


@dataclass(frozen=True, eq=False)
class Codes:
    """Slices in the latent space, each modality of each slice one code, and what the VAE draws of them.

    posterior: (n, k, h, w); decoded: (n, H, W) in [-1, 1]; row: (n,) which slice of `slices`; modality: (n,) its number.
    """

    posterior: DiagonalGaussian
    decoded: Tensor
    row: Tensor
    modality: Tensor
    slices: SliceSet

    @property
    def z(self) -> Tensor:
        """The posterior means: (n, k, h, w)."""
        return self.posterior.mean

    def modality_of(self, number: int) -> str:
        return MODALITIES[int(self.modality[number])]

    def number_of(self, row: int, modality: str) -> int:
        """The code of one modality of one slice. Raises VaeliteError if the slice has none."""
        found = ((self.row == row) & (self.modality == MODALITIES.index(modality))).nonzero()
        if not len(found):
            raise VaeliteError(f"Slice {row} has no {modality}. Choose one of the modalities of its patient.")
        return int(found[0, 0])


@torch.no_grad()
def encode(vae: VAE, slices: SliceSet) -> Codes:
    """Code and decode every modality of every slice, once for all explorers."""
    row, modality = slices.have.nonzero().T
    x = slices.x[slices.have][:, None]                       # n 1 H W
    codes = [vae.encode(part.float()) for part in x.split(BATCH)]
    decoded = torch.cat([vae.decode(code.mean)[:, 0] for code in codes]).clamp(-1, 1)
    posterior = DiagonalGaussian(torch.cat([code.mean for code in codes]), torch.cat([code.logvar for code in codes]))
    return Codes(posterior, decoded, row, modality, slices)


@dataclass(frozen=True, eq=False)
class Directions:
    """Principal directions of whole codes, largest variance first.

    scores: (n, r) of each code, in the unit of a latent; axes: (r, k h w), orthonormal; share: (r,) of the variance.
    """

    scores: Tensor
    axes: Tensor
    share: Tensor


def principal_directions(z: Tensor) -> Directions:
    """z: (n, k, h, w), or (n, d)."""
    flat = z.flatten(1)
    u, singular, axes = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    return Directions(u * singular, axes, singular.square() / singular.square().sum())


def neighbours(z: Tensor, modality: Tensor) -> list[dict[str, int]]:
    """For each code the nearest code of every other modality (distance of all latents): [{"CT": number, ...}, ...]."""
    distance = torch.cdist(z.flatten(1), z.flatten(1))
    nearest = {m: torch.where(modality == m, distance, math.inf).argmin(1).tolist() for m in sorted(set(modality.tolist()))}
    return [{MODALITIES[m]: to[number] for m, to in nearest.items() if m != int(own)} for number, own in enumerate(modality)]


def slice_names(slices: SliceSet) -> list[str]:
    """"case_003 · 12": patient and number of each slice, counted in this set from 1, from the lowest."""
    counted: dict[int, int] = {}
    names = []
    for case in slices.case.tolist():
        counted[case] = counted.get(case, 0) + 1
        names.append(f"{slices.names[case]} · {counted[case]}")
    return names


def choice(names: Sequence[str], start: int = 0) -> widgets.SelectionSlider:
    """A slider over named positions; its value is the number of the name."""
    return widgets.SelectionSlider(options=[(name, number) for number, name in enumerate(names)], value=start)


def explore_latent_map(codes: Codes, pixel_mm: float, row: int = 0) -> Panel:
    """Every slice as a point of a map; click one, or step through them: it is decoded beside its nearest neighbours.

    row: the slice chosen first. Maps: the two principal directions of the codes, and t-SNE (van der Maaten and Hinton 2008),
    which keeps neighbours together and gives up distances. Neighbours are those of the latent space, not of the map.
    """
    from sklearn.manifold import TSNE  # seconds to import: only who draws this map pays

    names, z = slice_names(codes.slices), codes.z.flatten(1)
    titles = [names[int(r)] for r in codes.row]
    found, nearest = principal_directions(codes.z), neighbours(codes.z, codes.modality)
    modalities = [codes.modality_of(number) for number in range(len(z))]
    patients = [codes.slices.names[int(codes.slices.case[r])] for r in codes.row]
    perplexity = min(30.0, (len(z) - 1) / 3)                 # scikit-learn's default, and what few slices allow
    maps = {"PCA": (found.scores[:, :2] / found.scores[:, 0].std()).numpy(),
            "t-SNE": TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(z.numpy())}
    first, second = (100 * float(share) for share in found.share[:2])
    axis_names = {"PCA": (f"1st direction, {first:.0f} % of the variance [SD]", f"2nd direction, {second:.0f} % [SD of the 1st]"),
                  "t-SNE": ("t-SNE 1 [1], distances between groups mean nothing", "t-SNE 2 [1]")}

    distance = torch.cdist(z, z).numpy()
    groups = {"modality": ["CT or CBCT" if m in ("CBCT", "CT") else "MR" for m in modalities], "patient": patients}
    findings = {}
    for colour, labels in groups.items():
        own, chance = (100 * share for share in nearest_share(distance, np.array(labels)))
        whose = "patient" if colour == "patient" else f"kind ({' / '.join(dict.fromkeys(labels))})".replace(" ", "\u00a0")
        findings[colour] = f"In all latents {own:.0f} % of codes lie next to one of their own {whose}, by chance {chance:.0f} %"

    def draw(map, colour, slice):
        return draw_latent_map(maps[map], axis_names[map], modalities, patients, colour, slice, nearest[slice], codes.decoded,
                               titles, pixel_mm, findings[colour])

    kind = widgets.Dropdown(options=list(maps))
    axes = {name: draw(name, "modality", 0).axes[0] for name in maps}

    def click(x, y):
        at = data_at(axes[kind.value], x, y)
        return {"slice": int(((maps[kind.value] - at) ** 2).sum(1).argmin())} if at else {}

    first_of_row = int((codes.row == row).nonzero()[0, 0])
    points = choice([f"{title} · {modality}" for title, modality in zip(titles, modalities)], first_of_row)
    return explore(draw, "Where do CT and MR of one slice lie? Click a point, or step through the slices.", click=click,
                   map=kind, colour=["modality", "patient"], slice=points)


def explore_walk(vae: VAE, codes: Codes, row: int, pixel_mm: float) -> Panel:
    """Walk from one slice along a direction of the latent space, decoded at each step.

    principal: of all codes, one step is the standard deviation (SD) of the codes along it; channel: the same latent channel at
    every place, one step is this channel's SD. Step 0 is the decoded slice itself.
    """
    found, z = principal_directions(codes.z), codes.z
    most = min(8, z.shape[1], len(found.axes))
    kinds = {"principal": (rearrange(found.axes[:most] * found.scores[:, :most].std(0)[:, None], "r (k h w) -> r k h w",
                                     k=z.shape[1], h=z.shape[2])),
             "channel": torch.diag(z.std((0, 2, 3)))[:most, :, None, None].expand(-1, -1, *z.shape[2:])}
    mask = codes.slices.mask[row].numpy()

    @torch.no_grad()
    def draw(start, kind, number, step_sd):
        chosen = codes.number_of(row, start)
        moved = z[chosen] + step_sd * kinds[kind][number - 1]
        nearest = int((z - moved).square().flatten(1).sum(1).argmin())
        image = vae.decode(moved[None])[0, 0].clamp(-1, 1)
        held = f", {100 * float(found.share[number - 1]):.0f} % of the variance" if kind == "principal" else ""
        return draw_step(codes.decoded[chosen], image, start, pixel_mm, mask,
                         f"{step_sd:+g} SD along {kind} direction {number}{held}", codes.modality_of(nearest))

    starts = [m for number, m in enumerate(MODALITIES) if codes.slices.have[row, number]]
    return explore(draw, "Which direction changes the modality, and which the anatomy?", start=starts, kind=list(kinds),
                   number=range(1, most + 1),
                   step_sd=widgets.FloatSlider(2.0, min=-WALK_SD, max=WALK_SD, step=0.5, description="step [SD]"))


def explore_morph(vae: VAE, codes: Codes, pixel_mm: float) -> Panel:
    """Go in a straight line from one code to another, patients or modalities, beside the cross-fade of the two pictures.

    The ends are the decoded slices themselves: of each patient, the slices six and three tenths up.
    """
    ends: dict[str, int] = {}
    slice_of = slice_names(codes.slices)
    for case in codes.slices.case.unique().tolist():
        rows = (codes.slices.case == case).nonzero()[:, 0]
        for row in dict.fromkeys(int(rows[int(up * len(rows))]) for up in (0.6, 0.3)):
            of_slice = (codes.row == row).nonzero()[:, 0].tolist()
            ends |= {f"{slice_of[row]} {codes.modality_of(number)}": number for number in of_slice}
    if len(ends) < 2:
        raise VaeliteError("A morph needs two slices: give codes of at least two modalities or two patients.")
    names = list(ends)
    own = codes.modality_of(ends[names[0]])
    patient_of = {name: int(codes.slices.case[codes.row[number]]) for name, number in ends.items()}
    others = [name for name in names[1:] if codes.modality_of(ends[name]) == own] or names[-1:]
    others.sort(key=lambda name: patient_of[name] == patient_of[names[0]])   # another patient first, where there is one

    @torch.no_grad()
    def draw(start, end, way):
        a, b, share = ends[start], ends[end], way / 100
        morph = vae.decode(torch.lerp(codes.z[a], codes.z[b], share)[None])[0, 0].clamp(-1, 1)
        blend = torch.lerp(codes.decoded[a], codes.decoded[b], share)
        modality = codes.modality_of(a) if codes.modality[a] == codes.modality[b] else "model space"
        return draw_morph(codes.decoded[a], morph, blend, codes.decoded[b], (start, end), modality, pixel_mm, way)

    way = widgets.IntSlider(50, 0, 100, 100 // STEPS, description="way [%]")
    panel = explore(draw, "Halfway between two slices: one picture, or two on top of each other?",
                    start=widgets.Dropdown(options=names), end=widgets.Dropdown(options=names, value=others[0]), way=way)
    play = widgets.Play(value=0, min=0, max=100, step=way.step, interval=FRAME_MS, tooltip="Play the morph")
    widgets.jslink((play, "value"), (way, "value"))
    panel.children = (*panel.children[:-2], play, *panel.children[-2:])      # under the sliders, above the picture
    return panel


def explore_translation(translator: Translator, slices: SliceSet, pixel_mm: float, direction: tuple[str, str]) -> Panel:
    """A translation by the method "vaelite" beside the truth: error, interval, and the profile of a row (click one).

    direction: (source, target) shown first. At most AT_MOST slices, evenly spaced, are translated in every direction.
    """
    slices = thinned(slices, AT_MOST)
    pairs = {f"{s} → {t}": (s, t) for s, t in translator.directions() if f"{s}>{t}" in translator.widths}
    drawn = {name: translated(translator, slices, (s,), t) for name, (s, t) in pairs.items()}
    names, box = slice_names(slices), body_box(slices.mask.any(0))

    def draw(direction, slice, window, line):
        s, t = pairs[direction]
        if not slices.have[slice, [MODALITIES.index(s), MODALITIES.index(t)]].all():
            return draw_nothing(f"{names[slice]} has no {s} and {t}: choose another slice or direction")
        x_source, x_target = (slices.x[slice, MODALITIES.index(m)].float().numpy() for m in (s, t))
        x, half = (part[slice] for part in drawn[direction])
        return draw_translator(names[slice], s, x_source, t, x_target, x, half, slices.mask[slice].numpy(), box, pixel_mm,
                               window, line)

    first, last = box[0].start, min(box[0].stop, slices.x.shape[-2]) - 1
    line = widgets.IntSlider((first + last) // 2, first, last)
    name = " → ".join(direction)
    panels = draw(name, 0, "soft tissue", line.value).axes[:3]

    def click(x, y):
        at = next(filter(None, (data_at(ax, x, y) for ax in panels)), None)
        return {"line": first + int(at[1] / pixel_mm)} if at else {}

    return explore(draw, "Where is the error larger than its interval, and does bone reach its height in the profile?",
                   click=click, direction=widgets.Dropdown(options=list(pairs), value=name),
                   slice=choice(names, len(names) // 2), window=list(WINDOWS), line=line)


def explore_attention(translator: Translator, slices: SliceSet, slice_row: int, source: str, target: str,
                      pixel_mm: float) -> Panel:
    """Choose a token of the target, by click or slider: which tokens of the source it reads, in each block and head.

    The weights of a token sum to 1; "mean" is over the heads. What a head reads is not yet what it uses: see the Jacobian.
    """
    x_source, mask = slices.x[slice_row, MODALITIES.index(source)].float(), slices.mask[slice_row]
    stack, given, to = translator.read(x_source[None, None], (source,), target)
    with torch.no_grad():
        maps = translator.mapper.attention_maps(translator.encode(stack, given), given, to)[:, 0]      # block head n n
    x = translator.slices(x_source[None, None], source, target, "mapped")[0, 0]
    side = math.isqrt(maps.shape[-1])
    heads = {"mean": maps.mean(1)} | {f"head {head}": maps[:, head - 1] for head in range(1, maps.shape[1] + 1)}
    maps_of = {name: rearrange(of, "block q (h w) -> block q h w", h=side).numpy() for name, of in heads.items()}

    def draw(block, head, row, column):
        weights = maps_of[head][block - 1, (row - 1) * side + column - 1]
        return draw_attention(weights, (row - 1, column - 1), source, x_source, target, x, mask,
                              pixel_mm, f"block {block}, {head}")

    axes = draw(1, "mean", 1, 1).axes[:3]
    token_mm = x.shape[-1] / side * pixel_mm

    def click(x, y):
        at = next(filter(None, (data_at(ax, x, y) for ax in axes)), None)
        return {"row": min(side, 1 + int(at[1] / token_mm)), "column": min(side, 1 + int(at[0] / token_mm))} if at else {}

    return explore(draw, "Which head looks around its own place, and which at the whole picture? Click a place.", click=click,
                   block=range(1, len(maps) + 1), head=list(heads), row=widgets.IntSlider(side // 2 + 1, 1, side),
                   column=widgets.IntSlider(side // 2 + 1, 1, side))


def explore_fusion(translator: Translator, slices: SliceSet, target: str, pixel_mm: float) -> Panel:
    """Tick the sources that exist: the translation from them, its error, its interval, and those of each smaller set.

    At most AT_MOST slices that have all modalities are translated from every set of sources. Only single sources and all at
    once were calibrated; the others take the mean calibrated width (our choice).
    Raises VaeliteError where no slice has two sources and the target.
    """
    sources = [m for m in translator.modalities if m != target]
    have = slices.have[:, [MODALITIES.index(m) for m in (*sources, target)]].all(1)
    if len(sources) < 2 or not have.any():
        raise VaeliteError(f"No slice has {target} and two sources: nothing to join. This explorer needs a third modality.")
    slices = thinned(SliceSet(slices.x[have], slices.have[have], slices.mask[have], slices.case[have], slices.names), AT_MOST)
    subsets = [subset for n in range(1, len(sources) + 1) for subset in combinations(sources, n)
               if task_name(subset, target) in translator.tasks]
    drawn = {"+".join(subset): translated(translator, slices, subset, target) for subset in subsets}
    names, box = slice_names(slices), body_box(slices.mask.any(0))

    def draw(slice, **ticked):
        chosen = [source for source in sources if ticked[source]]
        shown = "+".join(chosen)
        if shown not in drawn:
            return draw_nothing("Tick at least one source" if not chosen else f"No patient had {shown} and {target}")
        parts = {name: (x[slice], half[slice]) for name, (x, half) in drawn.items() if set(name.split("+")) <= set(chosen)}
        return draw_fusion(names[slice], target, slices.x[slice, MODALITIES.index(target)].float().numpy(), parts, shown,
                           slices.mask[slice].numpy(), box, pixel_mm)

    boxes = {source: widgets.Checkbox(source in sources[-2:], indent=False) for source in sources}    # a pair to begin with
    return explore(draw, f"Which second source is worth its scan for {target}? Does any make it worse?", **boxes,
                   slice=choice(names, len(names) // 2))


def translated(translator: Translator, slices: SliceSet, sources: tuple[str, ...], target: str,
               ) -> tuple[np.ndarray, np.ndarray]:
    """All slices by the method "vaelite", and half the width of their intervals: (n, h, w) each in [-1, 1].

    Sets of sources that were not calibrated take the mean width of those that were, for the same target (our choice).
    """
    name, x = task_name(sources, target), slices.x[:, [MODALITIES.index(source) for source in sources]]
    method = translator.choice.get(name, "finetuned")
    drawn, scale = translator.drawings(x, sources, target, (method,))
    known = [width for task, width in translator.widths.items() if task.endswith(f">{target}")]
    half_width = translator.widths.get(name, sum(known) / len(known)) * scale
    return drawn[method][:, 0].numpy(), half_width[:, 0].numpy()
