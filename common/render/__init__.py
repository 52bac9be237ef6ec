"""Drawing and setting type; knows no task and no model."""
