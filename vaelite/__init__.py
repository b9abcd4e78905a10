"""vaelite: a notebook-first teaching and prototyping kit for medical image translation.

data -> models -> training -> translate -> evaluation, dose, reader_study, explore: each knows only what stands before it.
`stages` puts them together, and `profiles` holds every knob.

The public names below are imported on first use, so that `vaelite --help` does not wait for torch. `translate` carries the
name of its module and is imported from it: vaelite.translate.translate.
"""
from importlib import import_module

PUBLIC = {
    "errors": ("VaeliteError",),
    "data.intensity": ("MODALITIES",),
    "data.volumes": ("Volume", "load_volume", "save_volume"),
    "data.cases": ("Case", "load_cases"),
    "data.slices": ("load_slices",),
    "profiles": ("profile",),
    "runs": ("open_run",),
    "models.vae": ("VAE",),
    "models.mapper": ("LatentMapper",),
    "translate": ("Translator",),
    "stages": ("train_vae", "train_mapper", "finetune_decoder", "train_baseline", "evaluate", "load_vae", "load_translator"),
    "evaluation.metrics": ("mae_hu", "psnr_db", "ssim"),
    "dose.plan": ("plan_imrt", "recalculate"),
    "dose.metrics": ("dvh",),
    "dose.gamma": ("gamma_map", "gamma_pass_rate"),
}
HOME = {name: module for module, names in PUBLIC.items() for name in names}
__all__ = sorted(HOME)
__version__ = "0.1.0"


def __getattr__(name: str):
    if name not in HOME:
        raise AttributeError(f"module 'vaelite' has no attribute '{name}'; it has {', '.join(__all__)}")
    return getattr(import_module(f"vaelite.{HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
