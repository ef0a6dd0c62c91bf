"""Carry out one command of the user, such as a build, a test run or a matrix, and report its results."""
