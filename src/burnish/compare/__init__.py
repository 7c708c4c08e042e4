"""Methods side by side on one recipe: under one budget, over repeated seeds, each run in a process of its own."""
