"""Image-level augmentation policies as data: what is drawn on the host."""
