"""The mask task: wear, incorrect or not_wear."""
