"""What a run is made of, whatever it trains: state, steps, checkpoints, logs, pictures, several processes."""
