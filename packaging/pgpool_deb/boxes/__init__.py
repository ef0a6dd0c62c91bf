"""Provide clean Debian roots, and the boxes of an engine in which packages are built."""
