"""A made-up benchmark that fits in the repository: drawn pictures, a formula as ground truth, a very small checkpoint.

It shows that the whole chain from picture to SRCC is right, on any machine and in seconds: the checkpoint was trained
to rank these pictures only when they are resized, normalised and asked about as ArtiMuse's protocol says; `mistakes.py`
lists what it notices and what it does not.

It is no judge of art. It has never seen a photograph, its ground truth is three terms of our own choosing, and its
scores mean nothing on any other picture.
"""
