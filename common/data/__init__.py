"""From folders of photos to cropped faces, split by person."""
