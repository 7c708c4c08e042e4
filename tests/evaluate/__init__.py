"""Tests of `burnish.evaluate`."""
