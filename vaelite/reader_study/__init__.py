"""A blinded reader study: pictures without clues, a form that forgets nothing, a lock, statistics."""
