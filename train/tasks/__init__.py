"""The tasks: each with its loaders, objective and metrics, on the engine."""
