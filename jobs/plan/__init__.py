"""Manifest minus store → shards and units."""
