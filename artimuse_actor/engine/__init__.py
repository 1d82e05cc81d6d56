"""The engine: weights, the passes over the network, scores, and texts generated many at a time."""
