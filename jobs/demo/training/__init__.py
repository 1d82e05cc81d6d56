"""How the demo checkpoint was made; not in the wheel."""
