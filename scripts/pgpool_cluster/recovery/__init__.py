"""Rebuild a node."""
