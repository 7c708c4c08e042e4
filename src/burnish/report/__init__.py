"""The report of a run: one self-contained page, and the same in short for a terminal."""
