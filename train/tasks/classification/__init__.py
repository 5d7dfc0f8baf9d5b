"""Classification, the task of a run without another; others build on its stage and objective."""
