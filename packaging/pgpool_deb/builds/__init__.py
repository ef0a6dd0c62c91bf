"""Plan the cells of a run, schedule and build them, and keep their results."""
