"""XMP sidecars: stars and scores where photo programs show them, written beside the pictures and taken back."""
