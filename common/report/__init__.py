"""What is read after training: the table of all runs."""
