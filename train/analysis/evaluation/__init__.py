"""A full evaluation of finished runs: each part measures, makes the rows of a table, and draws."""
