"""Models, tokenizers and helpers that the tests share."""
