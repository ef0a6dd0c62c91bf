"""Render, compare and write the files of a node's configuration."""
