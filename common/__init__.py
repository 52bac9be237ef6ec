"""Everything that the tasks share; importing it has no effects."""
