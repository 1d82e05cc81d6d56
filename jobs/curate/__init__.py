"""Scores → a training set: filters, duplicates, quotas, and the rows or images that are written."""
