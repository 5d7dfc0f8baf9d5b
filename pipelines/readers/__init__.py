"""One reader per data set: how its images are read, wherever they are."""
