"""Gender: male or female."""
