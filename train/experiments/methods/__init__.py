"""Which method for which data: methods with one budget each, on several data sets and models."""
