"""Compiles every Triton kernel for the architectures of real GPUs, which needs none: run as a process of its own.

The interpreter forgives what the compiler does not (types of a loop's variables, shapes that are no power of two), so
each kernel goes through the whole of Triton's pipeline, down to the assembler's binary.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import product
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from burnish.ops.triton import cross_entropy, rms_norm, rotary, swiglu

TARGETS = (80, 90)
FORMATS = ("*bf16", "*fp16", "*fp32")


def kernels() -> Iterator[tuple[Any, dict[str, str], dict[str, Any]]]:
    """Kernel, types of its arguments, and its constants, in every form that is launched."""
    for x, kind in product(FORMATS, (0, 1)):
        constants = {"KIND": kind, "BLOCK": 1024}
        yield swiglu._forward, {"gate_ptr": x, "up_ptr": x, "out_ptr": x, "count": "i64"}, constants
        pointers = dict.fromkeys(("gate_ptr", "up_ptr", "dy_ptr", "dgate_ptr", "dup_ptr"), x)
        yield swiglu._backward, {**pointers, "count": "i32"}, constants
    for x, rounded in product(FORMATS, (True, False)):
        sizes = {"width": "i32", "offset": "fp32"}
        constants = {"ROUND": rounded, "BLOCK": 4096}
        for one in (True, False):  # with the weight's gradient or without, and with what is added or without
            pointers = dict.fromkeys(("x_ptr", "delta_ptr", "total_ptr", "y_ptr"), x)
            pointers |= {"w_ptr": "*fp32", "r_ptr": "*fp32"}
            yield rms_norm._forward, {**pointers, **sizes, "eps": "fp32"}, {**constants, "ADDED": one}
            pointers = dict.fromkeys(("x_ptr", "w_ptr", "dy_ptr", "through_ptr", "dx_ptr"), x)
            rest = {"r_ptr": "*fp32", "dw_ptr": "*fp32", **sizes, "rows": "i32", "share": "i32"}
            for added in (True, False):
                chosen = {"NEEDS_WEIGHT": one, "THROUGH": added}
                yield rms_norm._backward, {**pointers, **rest}, {**constants, **chosen}
    for x, transposed in product(FORMATS, (True, False)):
        pointers = dict.fromkeys(("x_ptr", "y_ptr", "cos_ptr", "sin_ptr"), x)
        others = [n for n in rotary._rotate.arg_names if n not in pointers and n.islower()]
        yield rotary._rotate, {**pointers, **dict.fromkeys(others, "i32")}, {
            "TRANSPOSED": transposed, "HEADS": 32, "HALF": 64,
        }  # fmt: skip
    for x, capped in product(FORMATS, (True, False)):
        arguments = {"logits_ptr": x, "labels_ptr": "*i64", "losses_ptr": "*fp32", "cap": "fp32"}
        constants = {"VOCABULARY": 128256, "IGNORED": -100, "CAPPED": capped, "BLOCK": 8192}
        yield cross_entropy._softmax_gradient, arguments, constants


def forms() -> Iterator[tuple[Any, dict[str, str], dict[str, Any]]]:
    """Every kernel, and in bf16 once more with each size equal to 1, which Triton takes for a constant."""
    for kernel, arguments, constants in kernels():
        yield kernel, arguments, constants
        sizes = {name for name, kind in arguments.items() if kind in ("i32", "i64")}
        if sizes and arguments[kernel.arg_names[0]] == "*bf16":
            yield (
                kernel,
                {n: k for n, k in arguments.items() if n not in sizes},
                {**constants, **dict.fromkeys(sizes, 1)},
            )


def main() -> None:
    """Compile all, and print how many were."""
    count = 0
    for kernel, arguments, constants in forms():
        given = {**arguments, **dict.fromkeys(constants, "constexpr")}
        signature = {name: given[name] for name in kernel.arg_names}
        for target in TARGETS if arguments[kernel.arg_names[0]] == "*bf16" else TARGETS[1:]:
            made = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", target, 32))
            assert made.asm["cubin"]
            count += 1
    json.dump({"compiled": count}, sys.stdout)


if __name__ == "__main__":
    main()
