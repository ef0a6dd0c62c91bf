"""Obtain and check the source of pgpool-II: a pinned release, a tarball, a tree or a git checkout."""
