"""Training, from a folder of photos to a checkpoint, and the log of it."""
