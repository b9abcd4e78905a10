"""The one kind of error that a user of vaelite is meant to read."""

from __future__ import annotations


class VaeliteError(ValueError):
    """A refusal that says what is wrong, in which file, and what to do about it."""
