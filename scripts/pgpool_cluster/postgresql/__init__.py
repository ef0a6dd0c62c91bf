"""PostgreSQL on this server: programs, connections, files and messages."""
