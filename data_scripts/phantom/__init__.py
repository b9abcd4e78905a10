"""The procedural head-and-neck phantom, one physical step per file: traits, shapes, anatomy, contours,
composition, CT, CBCT, MR, and `scans`, which makes a case of them. Data card: data_scripts/PHANTOM.md."""

GENERATOR_VERSION = "3"

# Of the brain atlas (see brain.py): it must appear in all copies
ATLAS_NOTICE = (
    "Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill "
    "University. Permission to use, copy, modify, and distribute this software and its documentation for any purpose "
    "and without fee is hereby granted, provided that the above copyright notice appear in all copies. The authors and "
    "McGill University make no representations about the suitability of this software for any purpose. It is provided "
    "'as is' without express or implied warranty. The authors are not responsible for any data loss, equipment damage, "
    "property loss, or injury to subjects or patients resulting from the use or misuse of this software package."
)
