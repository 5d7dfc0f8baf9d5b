"""Image-level augmentation policies: which operation, with which parameter, drawn on the host as numbers."""
