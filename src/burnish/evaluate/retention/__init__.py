"""What a model knew before it was tuned, and how much of it is left."""
