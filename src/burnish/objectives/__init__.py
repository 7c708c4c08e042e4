"""Objectives: weighted terms, and the view of the model that they share."""
