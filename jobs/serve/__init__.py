"""Scores and texts over HTTP: one process, one model, pictures of all requests batched together."""
