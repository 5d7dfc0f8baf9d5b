"""A scoreboard of loaders: their speed and their correctness, each in an interpreter of its own."""
