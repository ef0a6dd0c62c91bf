"""The software that runs on the servers and turns PostgreSQL and pgpool-II into one cluster.

Reading order: definition/ (the cluster and its secrets), configuration/ (its files), decision/ (pure decisions), node/
and agent/ (the program that carries them out). The package imports only what Debian's oldest supported release ships:
Python 3.11, PyYAML, Jinja2, cryptography.
"""
