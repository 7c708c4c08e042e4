"""Tests of the experiments in recipes/."""
