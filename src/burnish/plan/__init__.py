"""Predictions and recommendations, made before a weight is loaded."""
