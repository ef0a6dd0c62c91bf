"""The signed apt repository that `./invoke publish` writes: its indexes, its pool and its signatures."""
