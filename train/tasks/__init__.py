"""Tasks beyond classification, each in a room of its own."""
