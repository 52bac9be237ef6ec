"""From one photo to one crop of a face."""
