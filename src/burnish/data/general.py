"""The general texts that come with Burnish, for whatever keeps a model from forgetting."""

from pathlib import Path

TEXTS = Path(__file__).with_name("general.txt")
"""Passages of several subjects, forms and languages, written for this, an empty line between them."""
