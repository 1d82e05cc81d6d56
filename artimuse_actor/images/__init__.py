"""Bytes → pixels: decoding, its limits, and one sentence about each file that cannot be decoded."""
