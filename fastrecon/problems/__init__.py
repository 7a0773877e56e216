"""Inverse problems, one a file: what was measured, how it is read, and how it is simulated."""
