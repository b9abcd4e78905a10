"""vaelite: a notebook-first teaching and prototyping kit for medical image translation."""
