# SPDX-License-Identifier: BSD-3-Clause-Clear
"""Python's side of pretrained_test.cpp: the shipped weights in the Python package's models.

    pretrained.py MODELS DIR                 compares logits
    pretrained.py MODELS DIR NAME CIFAR100   tests the model NAME on all test images, too

MODELS holds NAME.json and NAME.safetensors, and DIR for each model NAME.pth: "images" and the
"logits" that LibTorch gave for them. CIFAR100 holds test.bin or cifar-100-binary/test.bin. Exits
with 1 if logits differ by more than 1e-4 of their mean magnitude, or if the accuracy is not the
card's.
"""
import contextlib
import io
import json
import sys
from pathlib import Path

import bsconv.pytorch
import numpy
import safetensors.torch
import torch


def load(models, name):
    card = json.loads((models / f"{name}.json").read_text(encoding="utf-8"))
    with contextlib.redirect_stdout(io.StringIO()):
        model = bsconv.pytorch.get_model(
            card["architecture"], num_classes=len(card["class_names"])
        )
    model.load_state_dict(safetensors.torch.load_file(models / card["weights"]))
    return model.eval(), card


def has_equal_logits(models, path):
    model, _ = load(models, path.stem)
    expected = torch.load(path, weights_only=True)
    with torch.no_grad():
        logits = model(expected["images"])
    assert logits.shape == expected["logits"].shape, (path, logits.shape)
    scale = expected["logits"].abs().mean()
    difference = ((logits - expected["logits"]).abs().max() / scale).item()
    print(f"{path.stem}: logits differ by {difference:.1e}")
    return difference <= 1e-4


def has_accuracy_of_card(models, name, root):
    model, card = load(models, name)
    files = (root / "test.bin", root / "cifar-100-binary/test.bin")
    file = next(path for path in files if path.exists())
    # Coarse label, fine label, the pixels of three channels.
    records = numpy.fromfile(file, numpy.uint8).reshape(10000, 2 + 3072)
    labels = torch.from_numpy(records[:, 1].astype(numpy.int64))
    images = torch.from_numpy(records[:, 2:].copy()).view(-1, 3, 32, 32)
    right = 0
    with torch.no_grad():
        for begin in range(0, len(images), 250):
            logits = model(images[begin : begin + 250].float() / 255)
            right += (logits.argmax(1) == labels[begin : begin + 250]).sum().item()
    accuracy = 100 * right / len(images)
    print(f"{name}: {accuracy:.2f} % of the test images, its card says {card['top1']:.2f} %")
    # Rounding may decide an image or two otherwise.
    return abs(accuracy - card["top1"]) <= 0.025


if __name__ == "__main__":
    models, folder = Path(sys.argv[1]), Path(sys.argv[2])
    files = sorted(folder.glob("*.pth"))
    assert files, folder
    good = all([has_equal_logits(models, path) for path in files])
    if len(sys.argv) > 3:
        good = has_accuracy_of_card(models, sys.argv[3], Path(sys.argv[4])) and good
    sys.exit(0 if good else 1)
