"""The benchmarks of `python -m train benchmark`, one file each, and what they share.

A benchmark is a module with `add_options` (its command line), `QUICK` (options that make it short enough for a test),
`measure` (its numbers, in JSON types), `table` (those as text) and `plot` (those as a picture).
"""
