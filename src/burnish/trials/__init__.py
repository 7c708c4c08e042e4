"""A recipe trained several times in ways that differ in one thing, and what that thing did."""
