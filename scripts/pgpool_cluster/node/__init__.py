"""One node as its agent holds it: its cluster, its facts, its record, and the operations under way."""
