"""Burnish and its peers on the same job: in turn, each in a process of its own, measured alike."""
