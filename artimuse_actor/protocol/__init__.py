"""What a model is asked: protocols as data, and their prompts as token ids."""
