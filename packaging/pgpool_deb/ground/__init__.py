"""Provide what every part of the build side uses: errors, paths, releases, the cache, commands and files."""
