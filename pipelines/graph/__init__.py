"""The DALI pipeline: the only place where DALI's operators are called in training."""
