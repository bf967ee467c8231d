"""A run as a whole: its configuration, its parts, its directory, and what it left there."""
