"""The tests. Imported before any of them, so that what must be said before Triton is imported is said here."""

import os

import torch

if not torch.cuda.is_available():
    # Triton's own functions are defined at its import, and `transformers` imports it on the way.
    os.environ.setdefault("TRITON_INTERPRET", "1")
