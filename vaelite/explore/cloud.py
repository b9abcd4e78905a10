"""The codes of slices as points in space, to be turned: the one picture of the kit that a plane cannot hold."""
from __future__ import annotations

import html
import math

import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..figures import MODALITY_COLOURS, headline
from .explorers import Codes, principal_directions, slice_names
from .figures import empty_figure
from .panel import WHOLE_ROW, ControlNames, Panel, to_png

START_DEG, ABOVE_DEG, DISTANCE = 60, 20, 2.6                 # where the eye stands: around, above, in widths of the cloud
MARKERS = {"CBCT": ("circle", "o"), "CT": ("square", "s"), "T1c": ("diamond", "D"), "T2w": ("cross", "P")}    # plotly's, pyplot's


def explore_latent_cloud(codes: Codes) -> Panel:
    """The first three principal directions of whole codes; a point is one modality of one slice, named under the pointer.

    Turned by the mouse, or by the slider and so by the keyboard. A page without a kernel keeps the first view.
    """
    found, names = principal_directions(codes.z), slice_names(codes.slices)
    scores = (found.scores[:, :3] / found.scores[:, 0].std()).numpy()
    axes = [f"{n}, {100 * float(share):.0f} % [SD]" for n, share in zip(("1st", "2nd", "3rd"), found.share)]
    modality_of = np.array([codes.modality_of(number) for number in range(len(scores))])
    held = 100 * float(found.share[:3].sum())
    finding = f"Three directions of {codes.z[0].numel():,} hold {held:.0f} % of the variance; axes: SD of the 1st"
    cloud = go.FigureWidget(layout=go.Layout(
        title=finding, height=480, margin={"l": 0, "r": 0, "b": 0, "t": 40}, legend={"itemsizing": "constant"},
        scene={f"{axis}axis": {"title": name} for axis, name in zip("xyz", axes)} | {"aspectmode": "data"}))
    for name in dict.fromkeys(modality_of):
        rows = np.flatnonzero(modality_of == name)
        cloud.add_scatter3d(x=scores[rows, 0], y=scores[rows, 1], z=scores[rows, 2], mode="markers", name=name,
                            text=[f"{names[int(codes.row[row])]} · {name}" for row in rows], hoverinfo="text",
                            marker={"size": 3, "color": MODALITY_COLOURS[name], "symbol": MARKERS[name][0]})
    turn = widgets.IntSlider(START_DEG, 0, 360, 10, description="turn [°]")

    def look(_change: dict | None = None) -> None:
        cloud.layout.scene.camera = {"eye": dict(zip("xyz", eye(turn.value))), "center": {"x": 0, "y": 0, "z": -0.15}}

    look()
    turn.observe(look, "value")
    question = "Do the modalities lie apart or inside one another? Turn the cloud; the name of a point is under the pointer."
    at_rest = to_png(draw_latent_cloud(scores, modality_of, axes, finding))
    heading = widgets.HTML(f"<b>{html.escape(question)}</b>", layout=WHOLE_ROW)
    return Panel([heading, turn, ControlNames(), cloud], at_rest, question).add_class("vaelite-cloud")


def eye(turn_deg: float) -> tuple[float, float, float]:
    """Where the camera stands, in widths of the cloud, seen from its middle."""
    around, above = math.radians(turn_deg), math.radians(ABOVE_DEG)
    ground = DISTANCE * math.cos(above)
    return ground * math.cos(around), ground * math.sin(around), DISTANCE * math.sin(above)


def draw_latent_cloud(scores: np.ndarray, modality_of: np.ndarray, axes: list[str], finding: str) -> Figure:
    """The same view at rest. scores: (n, 3), in standard deviations of the first direction."""
    figure = empty_figure(4.6)
    ax = figure.add_subplot(projection="3d", computed_zorder=False)
    for name in dict.fromkeys(modality_of):
        ax.scatter(*scores[modality_of == name].T, s=14, color=MODALITY_COLOURS[name], marker=MARKERS[name][1], label=name)
    for axis, name in zip((ax.xaxis, ax.yaxis, ax.zaxis), axes):
        axis.set_label_text(name, fontsize=8)
        axis.set_tick_params(labelsize=8)
        axis.set_major_locator(MaxNLocator(3, integer=True))  # more run into one another
    ax.view_init(ABOVE_DEG, START_DEG)
    ax.set_aspect("equal")
    ax.legend(loc="center left", bbox_to_anchor=(1.1, 0.6), fontsize=8)
    headline(figure, finding)
    return figure
