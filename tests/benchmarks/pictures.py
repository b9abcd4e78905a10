"""README's two pictures, drawn from a finished run.

    python tests/benchmarks/pictures.py runs/phantom-laptop data/phantom-laptop

`overview.png`: T1c to CT by every method, on lesson 03's slice of the first validation patient. `lessons.png`: one picture of
each executed lesson, as it stands there.
"""
from __future__ import annotations

import argparse
import base64
import io
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from vaelite.data.cases import load_cases
from vaelite.data.intensity import MODALITIES
from vaelite.data.slices import load_slices
from vaelite.figures import draw_translations
from vaelite.runs import open_run
from vaelite.stages import load_translator, split

PICTURES = Path(__file__).parents[2] / "notebooks" / "pictures"
CHOSEN = {"01_vae": ("alone, \"model space\"", "01 · Take a cone-beam CT apart"),    # code of the lesson's cell, title
          "02_latent_mapper": ("draw_modalities(", "02 · Any of four modalities from any other"),
          "03_decoder_finetune": ("draw_budget(", "03 · Do the latents earn their cost?"),
          "04_eval_dosimetry": ("draw_dose_wash(", "04 · Is it good enough for dose?")}


def draw_overview(run: Path, data: Path) -> Figure:
    """T1c -> CT of one validation slice by the closed form, the rivals and the method, with their errors."""
    case, translator = split(load_cases(data), "validation")[0], load_translator(open_run(run))
    slices = load_slices([case], translator.size)
    row = slice(int(0.6 * len(slices)), int(0.6 * len(slices)) + 1)
    x_source, x_target = (slices.x[row, MODALITIES.index(name)].float() for name in ("T1c", "CT"))
    drawn = {method: translator.slices(x_source[:, None], "T1c", "CT", method)[0, 0] for method in ("ridge", "unet", "control", "vaelite")}
    pixel_mm = case.spacing_mm[2] * max(case.mask().shape[1:]) / translator.size
    return draw_translations("T1c", x_source[0], "CT", x_target[0], drawn, pixel_mm, slices.mask[row][0])


def picture_of(run: Path, lesson: str, code: str) -> np.ndarray:
    """The first picture below the cell of an executed lesson that holds this code."""
    cells = json.loads((run / "notebooks" / f"{lesson}.ipynb").read_text(encoding="utf-8"))["cells"]
    outputs = next(cell["outputs"] for cell in cells if cell["cell_type"] == "code" and code in "".join(cell["source"]))
    encoded = next(output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {}))
    return plt.imread(io.BytesIO(base64.b64decode(encoded)))


def draw_lessons(run: Path) -> Figure:
    """Four pictures under their lessons' questions."""
    figure = Figure(figsize=(13.4, 9.8), layout="constrained")
    for ax, (lesson, (code, title)) in zip(np.ravel(figure.subplots(2, 2)), CHOSEN.items()):
        ax.imshow(picture_of(run, lesson, code), interpolation="lanczos")
        ax.set_title(title, fontsize=16, fontweight="bold", pad=10)
        ax.set_axis_off()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    options = parser.parse_args()
    for name, figure, dpi in (("overview", draw_overview(options.run, options.data), 150), ("lessons", draw_lessons(options.run), 100)):
        figure.savefig(PICTURES / f"{name}.png", dpi=dpi, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
