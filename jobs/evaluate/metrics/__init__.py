"""Metrics over pairs of score and ground truth, each with its interval."""
