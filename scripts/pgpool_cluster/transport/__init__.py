"""Requests between nodes and programs."""
