"""Tests of Burnish; each room of the package has its folder."""
