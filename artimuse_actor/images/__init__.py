"""Bytes → pixels: decoding, its limits, and a sentence for each file that cannot be decoded."""
