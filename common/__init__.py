"""What the mask, gender and age tasks share; it knows none of them."""
