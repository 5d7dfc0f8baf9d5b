"""The benchmarks, one module each, and their shared parts.

A benchmark is a module with `HELP` (a line), `add_options` (its command line), `QUICK` (options that make it short
enough for a test), `measure` (its numbers, in JSON types), `table` (the numbers as text) and `plot` (the numbers as a
picture).
"""
