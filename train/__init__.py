"""Training with saliency-guided augmentation: `python -m train --help`."""
