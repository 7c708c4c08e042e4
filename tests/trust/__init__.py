"""Tests of the promises in docs/guarantees.md."""
