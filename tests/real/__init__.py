"""Tests with real pre-trained models and real text; all of them are marked slow."""
