"""Videos: frames, tracks, answers."""
