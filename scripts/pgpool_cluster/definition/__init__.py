"""cluster.yml and cluster.key as typed data."""
