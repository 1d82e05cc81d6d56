"""One output folder: its layout, lock, commit state, counts and maintenance."""
