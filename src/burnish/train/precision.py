"""Which number formats a run computes and stores in, and why."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from burnish.core.errors import UserError
from burnish.ops.machine import preferred_dtype

PrecisionName = Literal["auto", "bf16", "fp16", "fp32", "int8"]
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Precision:
    """The number formats of a run.

    Attributes:
        compute: Format of the matrix products and activations.
        base: Format that the model's weights are loaded in.
        autocast: Whether products are cast on the fly, which full tuning in half precision needs: its weights stay in
            fp32, since an update of 1e-5 relative to the weight vanishes in bf16 (8 bits of mantissa).
        scale_loss: Whether the loss is scaled against underflow (fp16 only).
        reason: Why, for the report.
        eight: Whether frozen matrices are multiplied in 8 bits in training.
    """

    compute: torch.dtype
    base: torch.dtype
    autocast: bool
    scale_loss: bool
    reason: str
    eight: bool = False

    def context(self, device: torch.device) -> AbstractContextManager[object]:
        """The autocast region of a forward pass; nothing where the weights already have the compute format."""
        return torch.autocast(device.type, dtype=self.compute) if self.autocast else nullcontext()

    def to_json(self) -> dict[str, str]:
        """For ``model.json`` and the report."""
        found = {"compute": NAMES[self.compute], "weights": NAMES[self.base], "trained": "fp32", "reason": self.reason}
        return found | ({"frozen": "int8"} if self.eight else {})


def choose_precision(name: PrecisionName, device: torch.device, *, trains_base: bool) -> Precision:
    """Resolve the recipe's ``train.precision``.

    Args:
        name: ``auto`` measures which format multiplies faster on this device.
        device: Where the run computes.
        trains_base: Whether weights of the base are trained; they then stay in fp32 and products are cast.
    """
    if name == "auto":
        compute, reason = preferred_dtype(device)
    elif name == "int8":
        compute, reason = torch.bfloat16, "the recipe asks for int8: frozen matrices multiply in it, all else in bf16"
    else:
        compute, reason = DTYPES[name], f"the recipe asks for {name}"
    if compute == torch.bfloat16 and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError("this GPU has no bf16", where="train.precision", fix="use `fp16` or `fp32`")
    half = compute != torch.float32
    return Precision(
        compute=compute,
        base=torch.float32 if trains_base or not half else compute,
        autocast=half and trains_base,
        scale_loss=compute == torch.float16,
        reason=reason,
        eight=name == "int8",
    )
