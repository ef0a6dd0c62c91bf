"""Replace the data of this node with a copy from another node."""
