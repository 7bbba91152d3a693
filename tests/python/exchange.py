# SPDX-License-Identifier: BSD-3-Clause-Clear
"""Python's side of weights_python_test.cpp: models of the Python package, their weights and logits.

    exchange.py make DIR NAME...    writes NAME.pth, NAME.safetensors and NAME.logits.pth
    exchange.py check DIR NAME...   reads NAME.out.pth and NAME.out.safetensors and compares logits
"""
import contextlib
import io
import sys
from pathlib import Path

import bsconv.pytorch
import safetensors.torch
import torch


def make_model(name):
    with contextlib.redirect_stdout(io.StringIO()):
        return bsconv.pytorch.get_model(name, num_classes=7)


def make(folder, name):
    torch.manual_seed(5)
    model = make_model(name)
    side = 32 if name.startswith("cifar_") else 64
    # Statistics of its own, so that they matter.
    model.train()
    with torch.no_grad():
        model(torch.randn(4, 3, side, side))
    model.eval()
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        logits = model(x)
    torch.save(model.state_dict(), folder / f"{name}.pth")
    safetensors.torch.save_file(model.state_dict(), folder / f"{name}.safetensors")
    torch.save({"input": x, "logits": logits}, folder / f"{name}.logits.pth")


def check(folder, name):
    expected = torch.load(folder / f"{name}.logits.pth")
    for state in (
        torch.load(folder / f"{name}.out.pth", weights_only=True),
        safetensors.torch.load_file(folder / f"{name}.out.safetensors"),
    ):
        model = make_model(name).eval()
        model.load_state_dict(state)
        with torch.no_grad():
            logits = model(expected["input"])
        assert torch.equal(logits, expected["logits"]), name


if __name__ == "__main__":
    run = {"make": make, "check": check}[sys.argv[1]]
    for name in sys.argv[3:]:
        run(Path(sys.argv[2]), name)
