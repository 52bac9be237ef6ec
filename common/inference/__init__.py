"""From photos and checkpoints to probabilities."""
