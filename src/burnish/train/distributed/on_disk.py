"""Tensors that wait on a disk: mapped files, of which the kernel keeps in memory what it has room for.

DeepSpeed's own way to a disk (ZeRO-Infinity; Rajbhandari et al., 2021, arXiv:2104.07857) reads and writes through
`libaio` and keeps no tensor of what is away, so that a checkpoint cannot be made of it. Here every share stays a
tensor in host memory whose pages belong to a file. The file has no name: its room is free when the process ends,
however it ends.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from burnish.core.files import disk_errors


class Disk:
    """Makes tensors whose pages lie in files.

    Args:
        folder: On a disk of this machine; made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def zeros(self, like: Tensor) -> Tensor:
        """Zeros in the shape and format of another tensor.

        Raises:
            UserError: The disk has no room; it is taken at once, since a write to a page without it would kill.
        """
        if not like.numel():
            return torch.zeros_like(like, device="cpu")
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".burnish-") as file:
                os.posix_fallocate(file.fileno(), 0, like.nbytes)
                return torch.from_file(file.name, shared=True, size=like.numel(), dtype=like.dtype).view(like.shape)

    def copy(self, tensor: Tensor) -> Tensor:
        """The values of another tensor."""
        return self.zeros(tensor).copy_(tensor.detach())
