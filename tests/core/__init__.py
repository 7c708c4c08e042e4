"""Tests of `burnish.core`."""
