"""The status, the events and the history, for administrators. Pure."""
