"""Compare the kernels of a linear layer on this CPU: milliseconds of processor time, and relative error.

    OMP_NUM_THREADS=1 python benchmarks/bench_linear.py [--inputs 2048] [--outputs 5632] [--rows 1 8 17 110]

The weights are random normal numbers. The second table has inputs of which 1 % are 50 times as large.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from machine import machine
from torch import Tensor

from video_llama.models.cpu import processor
from video_llama.models.fbgemm_linear import FbgemmInt8Linear, Float16Linear
from video_llama.models.ggml import has_ggml
from video_llama.models.packed_linear import Int4Linear, Int8Linear, PackedLinear
from video_llama.models.q4_k_linear import Q4KLinear

Kernel = Callable[[Tensor], Tensor]
CPU = torch.device("cpu")
REPEATS = 5


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inputs", type=int, default=2048)
    parser.add_argument("--outputs", type=int, default=5632)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 17, 110])
    arguments = parser.parse_args()
    torch.manual_seed(0)
    weight_OI = torch.randn(arguments.outputs, arguments.inputs) * 0.02
    kernels = make_kernels(weight_OI)
    print(machine(), f"({', '.join(processor().instruction_sets)})")
    print(f"{'ms of processor time':24}" + "".join(f"{rows:>10} rows" for rows in arguments.rows))
    for name, kernel in kernels.items():
        times = [milliseconds(kernel, torch.randn(rows, arguments.inputs)) for rows in arguments.rows]
        print(f"{name:24}" + "".join(f"{each:>15.2f}" for each in times), flush=True)
    vectors_NI = torch.randn(64, arguments.inputs)
    outliers_NI = torch.where(torch.rand(vectors_NI.shape) < 0.01, vectors_NI * 50, vectors_NI)
    print(f"{'relative error':24}{'normal':>15}{'outliers':>15}")
    for name, kernel in kernels.items():
        errors = [relative_error(kernel(inputs), inputs, weight_OI) for inputs in (vectors_NI, outliers_NI)]
        print(f"{name:24}" + "".join(f"{each:>15.5f}" for each in errors))


def make_kernels(weight_OI: Tensor) -> dict[str, Kernel]:
    """Return the kernels by name; those of FBGEMM only where torch has it."""
    low_OI = weight_OI.bfloat16()
    kernels: dict[str, Kernel] = {
        "float32": lambda inputs: torch.nn.functional.linear(inputs, weight_OI),
        "bfloat16": lambda inputs: torch.nn.functional.linear(inputs.bfloat16(), low_OI).float(),
    }
    sizes = (weight_OI.shape[1], weight_OI.shape[0])
    layers: dict[str, PackedLinear] = {
        "int8 (torch, bfloat16)": Int8Linear(*sizes, torch.bfloat16),
        "int4 (torch, bfloat16)": Int4Linear(*sizes, torch.float32),
    }
    if processor().has_fbgemm:
        layers["float16 weights (FBGEMM)"] = Float16Linear(*sizes, has_bias=False)
        layers["int8 (FBGEMM)"] = FbgemmInt8Linear(*sizes, torch.float32)
    if has_ggml():
        layers["q4_k (ggml)"] = Q4KLinear(*sizes, torch.float32)
    for layer in layers.values():
        layer.pack(weight_OI, CPU)
    return kernels | dict(layers)


def milliseconds(kernel: Kernel, inputs: Tensor) -> float:
    """Return the shortest processor time of a call in this thread."""
    with torch.no_grad():
        kernel(inputs)
        times = []
        for _ in range(REPEATS):
            start = time.thread_time()
            kernel(inputs)
            times.append(time.thread_time() - start)
    return 1000 * min(times)


def relative_error(found: Tensor, inputs: Tensor, weight_OI: Tensor) -> float:
    """Return the relative error of an output, in the Euclidean norm."""
    exact = inputs.double() @ weight_OI.double().T
    return float((found.double() - exact).norm() / exact.norm())


if __name__ == "__main__":
    main()
