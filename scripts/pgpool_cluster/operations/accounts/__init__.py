"""Roles, users and logins, and the database of the cluster's roles."""
