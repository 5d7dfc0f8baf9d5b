"""The options of runs: those of all tasks, and those of classification."""

from train.config.classification import Config, ResolvedConfig

__all__ = ["Config", "ResolvedConfig"]
