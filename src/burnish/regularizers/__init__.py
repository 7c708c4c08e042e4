"""Regularizers: terms that keep a model near the one that training began with. One file per method."""
