"""Experiments: conditions over several seeds, and the table of them."""
