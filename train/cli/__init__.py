"""The command line: its options, their checks, the presets."""
