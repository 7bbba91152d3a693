# SPDX-License-Identifier: BSD-3-Clause-Clear
"""Python's side of export_onnx_test.cpp: checks every DIR/NAME.onnx and runs it on DIR/NAME.pth.

NAME.pth holds "input" and the "output" that LibTorch gave for it. Exits with 1 if the checker
refuses a file, or if ONNX Runtime's results for the whole batch, or for its first image alone,
differ by more than 1e-4 of their mean magnitude.
"""
import sys
from pathlib import Path

import numpy
import onnx
import onnxruntime
import torch


def check(path):
    onnx.checker.check_model(onnx.load(path), full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options)
    expected = torch.load(path.with_suffix(".pth"), weights_only=True)
    name = session.get_inputs()[0].name
    batches = (1, len(expected["input"])) if session.get_inputs()[0].shape[0] == "batch" else (2,)
    worst = 0.0
    for batch in batches:
        (got,) = session.run(None, {name: expected["input"][:batch].numpy()})
        wanted = expected["output"][:batch].numpy()
        assert got.shape == wanted.shape, (path, got.shape, wanted.shape)
        scale = numpy.abs(wanted).mean()
        worst = max(worst, numpy.abs(got - wanted).max() / scale)
    print(f"{path.stem}: {worst:.1e}")
    return worst <= 1e-4


if __name__ == "__main__":
    files = sorted(Path(sys.argv[1]).glob("*.onnx"))
    assert len(files) == int(sys.argv[2]), files
    sys.exit(0 if all([check(path) for path in files]) else 1)
