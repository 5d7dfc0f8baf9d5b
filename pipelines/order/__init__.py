"""Which samples an epoch has, in which order, and in which batches of which process."""
