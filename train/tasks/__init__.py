"""The tasks beyond classification: each with its options, loaders, objective and metrics."""
