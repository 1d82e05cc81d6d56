"""The engine: weights, the passes over the network, scores, and texts in flight."""
