"""Drive many builds: new upstream releases, CI pipelines, several machines, and measurements."""
