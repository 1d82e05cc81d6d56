"""Metrics over pairs of score and ground truth, each with its interval.

Modules `import scipy`, which loads `scipy.stats` when it is first used: that takes half a second, and pages without
ground truth need none of it.
"""
