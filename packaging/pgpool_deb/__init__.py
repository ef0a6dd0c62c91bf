"""Turn pgpool-II's upstream source into Debian packages (the build machine's side)."""
