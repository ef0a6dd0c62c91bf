"""Used everywhere."""
