"""Pure functions of facts: what to do, and what to report."""
