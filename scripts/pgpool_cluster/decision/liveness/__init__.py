"""Which nodes show signs of life: heartbeats, links, probes. Pure."""
