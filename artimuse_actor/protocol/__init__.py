"""Protocols: the questions a model is asked, as data, and their prompts as token ids."""
