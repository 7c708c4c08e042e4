"""Checkpoints: whole or absent, verified when read, safetensors and JSON only."""
