"""The procedural head-and-neck phantom, one physical step per file: grid and shapes, tissues, anatomy, CT, CBCT, MR, contours."""

GENERATOR_VERSION = "1"
