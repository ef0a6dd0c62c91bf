"""WAL on this server: the archive, and what was kept of diverged data."""
