"""Where OpenKBP's patients lie, and which of them train, validate and test."""
from __future__ import annotations

import hashlib
from pathlib import Path

from vaelite.errors import VaeliteError

SUBSETS = {"train-pats": "train", "validation-pats": "validation", "test-pats": "test"}     # published folder: split
HELD_OUT_SHARE = 0.2                       # of the training patients, as published (200 train, 40 validation)


def find_patients(source: Path) -> dict[str, tuple[Path, str]]:
    """{patient: (its folder, published split)}, in the order of subset and number.

    source: the cloned repository, any folder that holds provided-data/, that folder itself, or one subset's folder.
    """
    source = Path(source).resolve()
    if not source.is_dir():
        raise VaeliteError(f"{source}: no such folder. Clone the repository ababier/open-kbp and give its folder.")
    root = source / "provided-data" if (source / "provided-data").is_dir() else source
    subsets = {root: SUBSETS[root.name]} if root.name in SUBSETS else {
        root / name: split for name, split in SUBSETS.items() if (root / name).is_dir()}
    found: dict[str, tuple[Path, str]] = {}
    for subset, split in subsets.items():
        for folder in sorted((path for path in subset.glob("pt_*") if path.is_dir()), key=patient_number):
            if folder.name in found:
                raise VaeliteError(f"{folder}: this patient is in {found[folder.name][0].parent.name} too. Remove one.")
            found[folder.name] = (folder, split)
    if not found:
        raise VaeliteError(f"{source}: no OpenKBP patient. Expected provided-data/ with {', '.join(SUBSETS)}, and in "
                           f"them folders pt_1, pt_2, ...: clone the repository ababier/open-kbp and give its folder.")
    return found


def patient_number(folder: Path) -> int:
    digits = folder.name.removeprefix("pt_")
    if not digits.isdigit():
        raise VaeliteError(f"{folder}: a patient's folder is named pt_ and a number. Rename it or move it away.")
    return int(digits)


def first_of_each_subset(patients: dict[str, tuple[Path, str]], limit: int) -> dict[str, tuple[Path, str]]:
    chosen = []
    for split in SUBSETS.values():
        chosen += [name for name, (_, published) in patients.items() if published == split][:limit]
    return {name: patients[name] for name in chosen}


def choose_splits(published: dict[str, str], seed: int) -> tuple[dict[str, str], str]:
    """({patient: split}, the rule in words). `published`: {patient: published split}.

    As published where all three subsets are there. Otherwise what was published to be held out stays held out: without
    test patients the validation patients (two or more) become the test set; what is still missing is drawn from train.
    """
    groups = {split: [name for name in published if published[name] == split] for split in SUBSETS.values()}
    if all(groups.values()):
        return dict(published), "as published"
    rules = []
    if not groups["train"]:
        groups = {"train": list(published), "validation": [], "test": []}
        rules.append("no published training patients: all are divided anew")
    if not groups["test"] and len(groups["validation"]) >= 2:
        groups["test"], groups["validation"] = groups["validation"], []
        rules.append("no published test patients: the published validation patients test")
    for split, least in (("test", 2), ("validation", 1)):
        if not groups[split]:
            drawn = draw(groups["train"], least, f"{seed} {split}")
            groups["train"] = [name for name in groups["train"] if name not in drawn]
            groups[split] = drawn
            rules.append(f"{split}: {len(drawn) or 'none'} drawn from the training patients with seed {seed}")
    return {name: split for split, names in groups.items() for name in names}, "; ".join(rules)


def draw(names: list[str], least: int, key: str) -> list[str]:
    """A fifth of `names`, but at least `least`, and never the last one; by hash, so that order does not matter."""
    size = min(max(least, round(HELD_OUT_SHARE * len(names))), len(names) - 1)
    ranked = sorted(names, key=lambda name: hashlib.sha256(f"{key} {name}".encode()).hexdigest())
    return sorted(ranked[:max(size, 0)])
