"""A store → one HTML file for people: what was scored, and with what result."""
