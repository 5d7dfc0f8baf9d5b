"""The DALI pipeline: the only place where training calls DALI's operators."""
