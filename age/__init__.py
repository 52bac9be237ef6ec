"""Age group: under 30, 30 to 59, 60 and over."""
