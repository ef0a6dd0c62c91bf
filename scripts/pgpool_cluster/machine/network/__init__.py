"""The server's addresses, its firewall, and its neighbours on the link."""
