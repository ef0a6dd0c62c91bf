"""Changes of this node or of the cluster."""
