"""Questions to stores in SQL, and their answers on the screen or in a file."""
