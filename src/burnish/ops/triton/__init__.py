"""Kernels in Triton, an optional extra: nothing here is imported where Triton is missing or no GPU is used."""
