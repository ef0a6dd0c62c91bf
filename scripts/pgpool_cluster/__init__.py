"""What turns PostgreSQL servers and pgpool-II into one working cluster; runs on the servers.

Reading order: cluster.py (what a cluster is), key.py (its secrets), configuration.py (its files), facts.py and
decide.py (what is to be done). Only what Debian's oldest supported release ships is imported: Python 3.11, PyYAML,
Jinja2, cryptography.
"""
