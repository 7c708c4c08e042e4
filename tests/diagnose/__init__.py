"""Tests of the room diagnose."""
