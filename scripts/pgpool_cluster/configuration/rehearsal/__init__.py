"""Find out, before anything is written, whether the new configuration can work here."""
