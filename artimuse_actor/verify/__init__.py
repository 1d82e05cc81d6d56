"""Checks of a device, and of a checkpoint on it, beside the published code's answers; speed measured there."""
