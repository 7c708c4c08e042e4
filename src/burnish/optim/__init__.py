"""The optimiser: parameter groups and learning-rate schedules."""
