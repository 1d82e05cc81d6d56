"""One module a command: options in, one screen or one JSON object out."""
