"""The checkout, with small packages and a key, that tests/unit/repository publishes from."""

from tests.unit.repository.conftest import checkout, data_home, own

__all__ = ["checkout", "data_home", "own"]
