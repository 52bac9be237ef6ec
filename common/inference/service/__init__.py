"""The page and POST /predict."""
