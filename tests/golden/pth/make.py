# SPDX-License-Identifier: BSD-3-Clause-Clear
"""Writes the .pth files beside it with Python's torch.save (torch 2.11.0)."""
import collections
import os
from pathlib import Path

import torch

folder = Path(__file__).parent
torch.manual_seed(0)
base = torch.arange(24.0).reshape(4, 6)
state = collections.OrderedDict(
    base=base,
    rows=base[1:3, ::2],
    transposed=base.t(),
    long=torch.arange(5),
    scalar=torch.tensor(2.5, dtype=torch.float64),
    empty=torch.empty(0, 3),
    bfloat16=torch.ones(3, dtype=torch.bfloat16),
    half=torch.ones(3, dtype=torch.float16),
    bool=torch.tensor([True, False]),
    int8=torch.tensor([-1], dtype=torch.int8),
    uint8=torch.tensor([255], dtype=torch.uint8),
    int16=torch.tensor([-300], dtype=torch.int16),
    int32=torch.tensor([70000], dtype=torch.int32),
    complex=torch.tensor([1 + 2j]),
    repeated=torch.ones(1).expand(5),
)
state["ключ.é"] = torch.tensor([1.0])
torch.save(state, folder / "zip.pth")
torch.save(state, folder / "protocol4.pth", pickle_protocol=4)
torch.save(state, folder / "legacy.pth", _use_new_zipfile_serialization=False)
model = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1), torch.nn.BatchNorm2d(2))
torch.save(model.state_dict(), folder / "module.pth")
torch.save({"weight": model[0].weight}, folder / "parameters.pth")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
checkpoint = {
    "epoch": 3,
    "model_state_dict": model.state_dict(),
    "optimizer": optimizer.state_dict(),
    "args": {"lr": 0.1, "sizes": [1, 2, (3,)], "none": None, "on": True, "big": 2**40, "raw": b"x"},
}
torch.save(checkpoint, folder / "checkpoint.pth")
torch.save({"epoch": 3, "net": {"a.b": {"w": torch.ones(2)}}}, folder / "nested.pth")


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/bsconv-pickle-was-executed",)


torch.save({"a": Evil()}, folder / "evil.pth")
torch.save(model, folder / "whole_model.pth")

numbers = torch.tensor([1 + 2j, 3 - 4j])
torch.save({"conjugate": numbers.conj()}, folder / "conjugate.pth")
torch.save({"negative": numbers.conj().imag}, folder / "negative.pth")

untyped = [torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2]
torch.save({str(dtype): torch.tensor([0.0, 1.0, 2.0]).to(dtype)[1:] for dtype in untyped}, folder / "untyped.pth")
