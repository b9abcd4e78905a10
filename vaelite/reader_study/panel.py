"""The form a reader fills in: a picture, seven questions, and nothing that says which picture it is. Works by keyboard alone."""
from __future__ import annotations

import html
import io

import ipywidgets as widgets
import numpy as np
from PIL import Image

from ..explore.panel import Panel, Picture, to_png
from ..figures import DISPLAYS, WIDTH_IN, headline, new_figure
from .answers import QUESTIONS, Question, Study

NOTE = "(Open this notebook in JupyterLab to answer.)"


class ReaderPanel(Panel):
    """One reader's way through a study, from the first picture without all answers on. Every choice is saved when it is made.

    Tab goes from answer to answer, space chooses or presses. (Not radio buttons: those need the arrow keys, which JupyterLab
    takes for itself to move between cells.) Make it the last line of a cell.
    Parts: `questions` {name: ToggleButtons}, `back`, `next`, `lock` (Buttons), `status` (HTML), `shown` (Picture).
    """

    def __init__(self, study: Study, reader: str):
        self.study, self.reader, self.order = study, reader, study.order_for(reader)
        self.at, self.filling_in = 0, False
        self.questions = {name: buttons(question) for name, question in QUESTIONS.items()}
        for name, control in self.questions.items():
            control.observe(lambda change, name=name: self.save(name, change["new"]), "value")
        first = study.picture(self.order[0])
        self.status, self.problem = widgets.HTML(), widgets.HTML()
        self.back, self.next, self.lock = (widgets.Button(description=text, layout=widgets.Layout(width="max-content"))
                                           for text in ("Back", "Next picture", "Lock my answers for good"))
        for button, action in ((self.back, lambda: self.turn(-1)), (self.next, lambda: self.turn(1)), (self.lock, self.finish)):
            button.on_click(lambda _button, action=action: self.guarded(action))
        form = widgets.GridBox([grouped(question.text, self.questions[name]) for name, question in QUESTIONS.items()],
                               layout=widgets.Layout(grid_template_columns="repeat(auto-fill, minmax(19em, 1fr))", width="100%"))
        display = DISPLAYS[study.target]
        task = (f"{study.target}, three neighbouring slices, black to white {display.window[0]:g} to {display.window[1]:g} "
                f"{display.unit}: rate them; are they real? {len(self.order)} pictures, each answer is saved at once.")
        self.shown = Picture(value=first, text=task)
        super().__init__([widgets.HTML(f"<b>{html.escape(task)}</b>"), self.shown, self.back, form, self.problem, self.status,
                          widgets.HBox([self.next, self.lock], layout=widgets.Layout(flex_flow="row wrap"))],
                         picture_at_rest(first, task), task, NOTE)
        missing = study.missing(reader)
        self.show(self.order.index(missing[0][0]) if missing else len(self.order) - 1)

    def turn(self, step: int) -> None:
        self.show(self.at + step)
        self.back.focus()                                    # it stands before the questions: Tab then leads to the first

    def show(self, at: int) -> None:
        """Turn to picture `at` of this reader's order, with the answers it has."""
        self.at, name = at, self.order[at]
        self.shown.value = self.study.picture(name)
        given = self.study.answers(self.reader).get(name, {})
        self.filling_in = True                               # so that a saved answer is not saved again
        for question, control in self.questions.items():
            control.value = given.get(question)
        self.filling_in = False
        self.refresh()

    def save(self, question: str, value: int | str | None) -> None:
        if not self.filling_in and value is not None:
            self.guarded(lambda: self.study.answer(self.reader, self.order[self.at], question, value))
            self.refresh()

    def finish(self) -> None:
        self.study.lock(self.reader)
        self.refresh()

    def refresh(self) -> None:
        """What can be pressed now, and how far we are."""
        locked, missing = self.study.is_locked(self.reader), self.study.missing(self.reader)
        here = sum(name == self.order[self.at] for name, _ in missing)
        for control in self.questions.values():
            control.disabled = locked
        self.back.disabled = self.at == 0
        self.next.disabled = bool(here) or self.at + 1 == len(self.order)
        self.lock.disabled = locked or bool(missing)
        left = len({name for name, _ in missing})
        state = "locked, thank you" if locked else f"{here} of {len(self.questions)} questions open, {left} pictures to go"
        self.status.value = f'<p role="status">Picture {self.at + 1} of {len(self.order)}: {state}.</p>'

    def guarded(self, action) -> None:
        """Run an action of a control; what fails is shown in the panel, and raised."""
        try:
            action()
            self.problem.value = ""
        except Exception as error:
            self.problem.value = f'<p role="alert"><b>{type(error).__name__}:</b> {html.escape(str(error))}</p>'
            raise                                            # from Python it stops the cell; from the page it is logged


def picture_at_rest(png: bytes, title: str) -> bytes:
    """A picture of the study for a page without a kernel: as wide as every figure, under its title."""
    grey = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
    figure, axes = new_figure(0.7 + WIDTH_IN * grey.shape[0] / grey.shape[1])
    axes[0, 0].imshow(grey, cmap="gray", vmin=0, vmax=255)
    axes[0, 0].set_axis_off()
    headline(figure, title)
    return to_png(figure)


def buttons(question: Question) -> widgets.ToggleButtons:
    options = [(f"{value} · {words}" if isinstance(value, int) else words, value) for value, words in question.answers.items()]
    return widgets.ToggleButtons(options=options, value=None, style={"button_width": "18em"}, tooltip=question.text)


def grouped(title: str, control: widgets.ToggleButtons) -> widgets.VBox:
    return widgets.VBox([widgets.HTML(f"<b>{html.escape(title)}</b>"), control])
