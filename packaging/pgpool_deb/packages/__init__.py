"""Make the source packages pgpool2 and pgpool2-cluster for a release."""
