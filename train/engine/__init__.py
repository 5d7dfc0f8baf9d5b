"""The parts of a run, whatever it trains: objective, steps, loop, schedule, checkpoints, log, pictures."""
