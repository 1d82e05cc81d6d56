"""Checkpoints: published names and hubs, folders and buckets, configuration, digests."""
