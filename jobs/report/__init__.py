"""A store → one HTML file that tells people what was scored, and how it came out."""
