"""Every table this project reads or writes, declared once: pyarrow schemas with units in the field metadata."""
