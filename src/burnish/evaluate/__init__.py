"""Scores of a model on held-out rows, with intervals: loss, classification by likelihood, text metrics."""
