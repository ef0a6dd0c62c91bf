"""Render the files of this node from cluster.yml. Nothing is written."""
