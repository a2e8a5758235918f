"""Comparison: accuracy and time of backends and of peers, in one run, on one machine."""
