"""Combining weights after the training: on the line to the original, and as averages."""
