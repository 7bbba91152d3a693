# SPDX-License-Identifier: BSD-3-Clause-Clear
"""NumPy's side of replace_python_test.cpp: weights of BSConv layers by np.linalg.svd.

    components.py DIR    reads DIR/weight.safetensors, writes DIR/expected.safetensors
"""
import sys
from pathlib import Path

import numpy as np
import safetensors.numpy


def unconstrained(weight, terms):
    """Each filter's best approximation by a sum of blueprints, and their factors of the first."""
    out, channels, height, width = weight.shape
    u, s, vh = np.linalg.svd(weight.reshape(out, channels, height * width))
    kernel = np.einsum("ocr,or,ork->ock", u[:, :, :terms], s[:, :terms], vh[:, :terms])
    pointwise = u[:, :, 0] * np.sqrt(s[:, :1])
    depthwise = vh[:, 0] * np.sqrt(s[:, :1])
    return kernel.reshape(weight.shape), pointwise, depthwise


def subspace(weight, mid):
    """The rank-one filters with their pointwise parts in the best common subspace of `mid` axes."""
    _, pointwise, depthwise = unconstrained(weight, 1)
    scale = np.linalg.norm(depthwise, axis=1, keepdims=True)
    _, _, axes = np.linalg.svd(pointwise * scale)
    basis = axes[:mid]
    kernel = np.einsum("oc,ok->ock", pointwise @ basis.T @ basis, depthwise)
    return kernel.reshape(weight.shape), basis.T @ basis


folder = Path(sys.argv[1])
weight = safetensors.numpy.load_file(folder / "weight.safetensors")["weight"].astype(np.float64)
kernel, pointwise, depthwise = unconstrained(weight, 1)
results = {
    "u": kernel,
    "pointwise": np.abs(pointwise),
    "depthwise": np.abs(depthwise),
    "two": unconstrained(weight, 2)[0],
}
results["s"], results["projection"] = subspace(weight, 5)
safetensors.numpy.save_file(
    {name: np.ascontiguousarray(value) for name, value in results.items()},
    folder / "expected.safetensors",
)
