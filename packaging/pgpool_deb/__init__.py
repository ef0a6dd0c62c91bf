"""Turn pgpool-II's upstream source into Debian packages. This package runs on build machines only."""
