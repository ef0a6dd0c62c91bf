"""Facts of the nodes, and direct conclusions from them. Pure."""
