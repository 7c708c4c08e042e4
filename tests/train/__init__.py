"""Tests of `burnish.train`."""
