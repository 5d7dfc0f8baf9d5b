"""Networks for small images, and all models by name."""
