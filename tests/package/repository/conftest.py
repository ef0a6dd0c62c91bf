"""The fixtures of tests/unit/repository: a checkout with small packages, a key, and a repository published from it.

The tests of this folder run gpg, gpgv, apt-ftparchive and apt dozens of times, which is too slow for the unit level.
"""

from tests.unit.repository.conftest import checkout, data_home, own, published, repo

__all__ = ["checkout", "data_home", "own", "published", "repo"]
