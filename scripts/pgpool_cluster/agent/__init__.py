"""The agent's loop, its answers to requests, its chores and its checks."""
