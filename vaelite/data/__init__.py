"""From case folders on disk to slices in model space: intensities, volumes, checked cases, slices."""
