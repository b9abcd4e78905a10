"""Explorers: a drawing function and up to four controls. And `show_source`: the code a lesson talks about."""
from __future__ import annotations

import asyncio
import base64
import contextlib
import html
import inspect
import io
from collections.abc import Callable, Mapping
from typing import Any

import anywidget
import ipywidgets as widgets
import traitlets
from IPython.display import Code
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import VaeliteError

MOST_CONTROLS = 4                                            # more than a student can keep in mind; our choice
PAGE_NOTE = "(A picture at rest: run all cells in JupyterLab to move the sliders.)"
WHOLE_ROW = {"width": "100%"}
MOST_CACHED = 64                                             # pictures kept, about 50 kB each
PAUSE_S = 0.05                                               # after a picture, before its neighbour is drawn ahead


class Panel(widgets.VBox):
    """Question, controls, picture. On a page without a kernel the first picture and the question stand in for it."""

    def __init__(self, children: list[widgets.Widget], png: bytes, text: str, note: str = PAGE_NOTE):
        super().__init__(children)
        self.add_class("vaelite-panel")
        self.first_png = png
        self.text, self.note = text, note

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle = super()._repr_mimebundle_(**kwargs)
        png, text = base64.b64encode(self.first_png).decode(), html.escape(self.text)
        # JupyterLab takes the widget; a page takes the HTML; a viewer that knows neither takes the bare picture
        page = (f'<img src="data:image/png;base64,{png}" alt="{text}" style="max-width: 100%">'
                f"<p><b>{text}</b> {self.note}</p>")
        return bundle | {"text/html": page, "image/png": png, "text/plain": self.text}


# Names the sliders and the play buttons of a panel, which ipywidgets 8.1 labels for the eye only, and keeps the keys of all
# controls for them: JupyterLab would go to the next cell at an arrow in a drop-down, and cut the cell at an "x".
PANEL_JS = """
const readyControls = panel => {
  for (const handle of panel.querySelectorAll("[role=slider]")) {
    const words = handle.closest(".widget-inline-hbox").querySelector(".widget-label").textContent;
    handle.setAttribute("aria-label", words);
  }
  for (const [icon, words] of Object.entries({ play: "Play or pause", stop: "Stop", retweet: "Repeat" })) {
    panel.querySelector(`button:has(> .fa-${icon})`)?.setAttribute("aria-label", words);
  }
  for (const control of panel.querySelectorAll("select, input, button, [role=slider]")) {
    control.setAttribute("data-lm-suppress-shortcuts", "");
  }
};
const readyPanel = el => {
  if (!el.isConnected) return requestAnimationFrame(() => readyPanel(el));
  const panel = el.closest(".vaelite-panel");
  if (!panel) return;
  readyControls(panel);                                       // and again for those that come later
  new MutationObserver(() => readyControls(panel)).observe(panel, { childList: true, subtree: true });
};
"""


class ControlNames(anywidget.AnyWidget):
    """Nothing to be seen: makes the controls of its panel usable by keyboard and by ear (see PANEL_JS)."""

    _esm = PANEL_JS + "export default { render({ el }) { readyPanel(el); } };"


class Picture(anywidget.AnyWidget):
    """A PNG with words for who cannot see it. `clicked` is (x, y), fractions of its width and height from the upper left.

    In place of ipywidgets' Image, which has no such words (with a tooltip JupyterLab shows an error instead of it). It also
    does for its panel what `ControlNames` does.
    A click only moves controls (see `explore`), so whatever it does the keyboard can do too.
    """

    _esm = PANEL_JS + """
    export default {
      render({ model, el }) {
        const picture = document.createElement("img");
        picture.alt = model.get("text");
        picture.style.maxWidth = "100%";
        const show = () => {
          URL.revokeObjectURL(picture.src);
          picture.src = URL.createObjectURL(new Blob([model.get("value")], { type: "image/png" }));
        };
        model.on("change:value", show);
        show();
        if (model.get("clickable")) {
          picture.style.cursor = "crosshair";
          picture.addEventListener("click", ({ offsetX, offsetY }) => {
            model.set("clicked", [offsetX / picture.clientWidth, offsetY / picture.clientHeight]);
            model.save_changes();
          });
        }
        el.append(picture);
        readyPanel(el);
      },
    };
    """
    value = traitlets.Bytes().tag(sync=True)
    text = traitlets.Unicode().tag(sync=True)
    clickable = traitlets.Bool(False).tag(sync=True)
    clicked = traitlets.List(traitlets.Float()).tag(sync=True)


def explore(draw: Callable[..., Figure], question: str | None = None, *, check: bool = True,
            click: Callable[[float, float], dict[str, Any]] | None = None, **controls: Any) -> Panel:
    """Redraw a figure whenever one of its controls moves. Make it the last line of a cell.

    draw: called as draw(name=value, ...) with one value a control -> Figure. It should read no notebook variable.
    question: what the student is to find out; shown above the controls.
    controls: name=ipywidgets control; a list becomes a drop-down, a range an integer slider.
    check: draw both ends of every control now, the others as they start: a position that fails stops the notebook.
    click: called as click(x, y) where the picture was clicked, fractions from its upper left -> {control's name: new value}.
    A picture that fails later shows its error in the panel and raises it.
    Raises VaeliteError for no control or more than 4, and for a drawing function that returns no Figure.
    Example: explore(draw_kl, "Where is the minimum?", mu=widgets.FloatSlider(min=-3, max=3))
    """
    if not 1 <= len(controls) <= MOST_CONTROLS:
        raise VaeliteError(f"An explorer has 1 to {MOST_CONTROLS} controls, this one {len(controls)}. "
                           f"Fix the other values inside the drawing function.")
    panel_controls = {name: as_control(name, control) for name, control in controls.items()}
    start = {name: control.value for name, control in panel_controls.items()}
    pictures: dict[tuple, bytes] = {}

    def picture(values: dict[str, Any]) -> bytes:
        key = tuple(values.values())
        if key not in pictures:
            if len(pictures) >= MOST_CACHED:
                pictures.pop(next(iter(pictures)))           # the oldest
            pictures[key] = to_png(draw(**values))
        return pictures[key]

    first = picture(start)                                   # in the open: an error here stops the notebook
    for name, control in panel_controls.items() if check else ():
        for value in ends(control):
            picture(start | {name: value})
    text = question or f"Explorer: {', '.join(control.description for control in panel_controls.values())}"
    shown = Picture(value=first, text=text, clickable=click is not None)
    problem = widgets.HTML(layout=WHOLE_ROW)

    waiting: list[asyncio.TimerHandle] = []

    def redraw(change: dict) -> None:
        while waiting:
            waiting.pop().cancel()
        try:
            shown.value = picture({name: control.value for name, control in panel_controls.items()})
            problem.value = ""
        except Exception as error:
            problem.value = f'<p role="alert"><b>{type(error).__name__}:</b> {html.escape(str(error))}</p>'
            raise                                            # from Python it stops the cell; from the page it is logged
        draw_ahead(change)

    def draw_ahead(change: dict) -> None:
        """Who steps on will step on: draw the next position while the student looks at this one."""
        name = next(name for name, control in panel_controls.items() if control is change["owner"])
        following = beyond(change["owner"], change["old"], change["new"])
        with contextlib.suppress(RuntimeError):              # no loop is running: nobody is looking
            loop = asyncio.get_running_loop()
            for value in following:
                waiting.append(loop.call_later(PAUSE_S, draw_quietly, name, value))

    def draw_quietly(name: str, value: Any) -> None:
        with contextlib.suppress(Exception):                 # it is shown and raised where the student gets there
            picture({other: control.value for other, control in panel_controls.items()} | {name: value})

    for control in panel_controls.values():
        control.observe(redraw, "value")
    if click is not None:
        def move(change: dict) -> None:
            for name, value in click(*change["new"]).items():
                panel_controls[name].value = value

        shown.observe(move, "clicked")
    heading = [widgets.HTML(f"<b>{html.escape(question)}</b>", layout=WHOLE_ROW)] if question else []
    panel = Panel([*heading, *panel_controls.values(), problem, shown], first, text)
    panel.layout.flex_flow = "row wrap"                      # two controls beside one another where there is room
    return panel.add_class("vaelite-explorer")


def as_control(name: str, control: Any) -> widgets.Widget:
    """A labelled control that the keyboard can move: a list becomes a drop-down, a range an integer slider."""
    if isinstance(control, range):
        control = widgets.IntSlider(control[0], control[0], control[-1], control.step)
    elif isinstance(control, (list, tuple)):
        control = widgets.Dropdown(options=control)
    if not hasattr(control, "value"):
        raise VaeliteError(f"'{name}' is {control!r}: give a list, a range or an ipywidgets control that has a value.")
    if not control.description:
        control.description = name.replace("_", " ")
    control.style.description_width = "9em"
    control.layout.width = "min(32em, 100%)"
    return control


def positions(control: widgets.Widget) -> list[Any]:
    """The values of the options of a drop-down or a slider over names."""
    options = control.options.items() if isinstance(control.options, Mapping) else control.options
    return [option[1] if isinstance(option, tuple) else option for option in options]


def beyond(control: widgets.Widget, old: Any, new: Any) -> list[Any]:
    """The value one step further in the direction from old to new: a list of one, or of none at an end or for a box."""
    if hasattr(control, "options"):
        values = positions(control)
        step = 1 if values.index(new) > values.index(old) else -1
        return values[values.index(new) + step:][:1] if values.index(new) + step >= 0 else []
    if not getattr(control, "step", None) or isinstance(new, tuple):    # a range has two ends: neither is the next position
        return []
    further = new + (control.step if new > old else -control.step)
    return [further] if control.min <= further <= control.max else []


def ends(control: widgets.Widget) -> list[Any]:
    """The values to try before a student does: a slider's ends, the first and last option, both states of a box."""
    if hasattr(control, "options"):
        values = positions(control)
        return [values[0], values[-1]]
    if hasattr(control, "min"):
        return [control.min, control.max]
    return [False, True] if isinstance(control.value, bool) else [control.value]


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG file, at the figure's own resolution."""
    if not isinstance(figure, Figure):
        raise VaeliteError(f"The drawing function of an explorer returns a Figure; this one returned {figure!r}.")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", pil_kwargs={"compress_level": 1})    # 3 x faster, files a third larger
    return buffer.getvalue()


def data_at(axes: Axes, x: float, y: float) -> tuple[float, float] | None:
    """Where a click (fractions from the picture's upper left) lies in the data of these axes; None beside them."""
    axes.get_xlim()                                          # limits and square pixels are settled at the first drawing, ...
    axes.apply_aspect()                                      # ... which may not have been
    place = axes.figure.transFigure.transform((x, 1 - y))
    return tuple(axes.transData.inverted().transform(place)) if axes.bbox.contains(*place) else None


def show_source(function: Any) -> Code:
    """The source of a function or class as it stands in the library, so that the lesson never shows another one."""
    return Code(inspect.getsource(function), language="python")
