"""The programs, services, files and addresses of this server."""
