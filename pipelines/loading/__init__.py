"""From samples to batches: what the pipeline is fed with, and the loader that users iterate over."""
