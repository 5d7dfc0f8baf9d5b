"""The images of a run: the loaders, and the embedded data set."""
