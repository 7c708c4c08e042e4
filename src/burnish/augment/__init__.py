"""New training rows made of those that there are: one file for each kind, and what they share."""
