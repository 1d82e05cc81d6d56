"""Training of the demo checkpoint; not in the wheel."""
