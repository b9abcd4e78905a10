"""vaelite: a notebook-first teaching and prototyping kit for medical image translation.

The public names below are imported on first use, so that `vaelite --help` does not wait for torch. Two functions carry
the name of their module and are imported from it: vaelite.translate.translate and vaelite.explore.explore.
"""
from importlib import import_module

PUBLIC = {
    "errors": ("VaeliteError",),
    "intensity": ("MODALITIES",),
    "volumes": ("Volume", "load_volume", "save_volume"),
    "cases": ("Case", "load_cases"),
    "slices": ("load_slices",),
    "profiles": ("profile",),
    "runs": ("open_run",),
    "vae": ("VAE",),
    "mapper": ("LatentMapper",),
    "translate": ("Translator",),
    "stages": ("train_vae", "train_mapper", "finetune_decoder", "train_baseline", "evaluate", "load_vae", "load_translator"),
    "metrics": ("mae_hu", "psnr_db", "ssim"),
    "dose": ("plan_imrt", "recalculate"),
    "dose_metrics": ("dvh",),
    "gamma": ("gamma_map", "gamma_pass_rate"),
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
