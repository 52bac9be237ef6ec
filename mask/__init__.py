"""How a mask is worn: wear, incorrect or not_wear."""
