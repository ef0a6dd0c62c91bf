"""The software that runs on the servers and turns PostgreSQL and pgpool-II into one cluster.

Reading order: cluster.py (the cluster's definition), key.py (its secrets), configuration.py (its files), facts.py and
decide.py (its decisions). The package imports only what Debian's oldest supported release ships: Python 3.11, PyYAML,
Jinja2, cryptography.
"""
