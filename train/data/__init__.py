"""The images of a run: its loaders, and the embedded data set."""
