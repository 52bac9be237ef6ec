"""The training engine, its losses, metrics and checkpoints."""
