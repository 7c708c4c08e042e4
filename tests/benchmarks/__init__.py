"""Tests of the benchmark's runner; nothing here measures time."""
