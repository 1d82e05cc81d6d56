"""A store in the browser: rows searched and sorted, pictures looked at and marked."""
