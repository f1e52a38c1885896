"""The training engine: arrays in, checkpoints, predictions and fairness reports out."""
