#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause-Clear
"""Times our loaders beside torchvision's transforms in torch's DataLoader, in turn, on one machine.

    python3 benchmarks/data_loading.py --program build/default/benchmarks/bsconv_data_loading \\
        --cifar100 DIR --image-folder DIR

CIFAR-100 (the directory of cifar-100-binary): random crop 32 with padding 4 and a horizontal flip.
Image folder: RandomResizedCrop 224 and a horizontal flip. Batches of 128, scaled to 0..1, the same
number of workers. Every round times each; the median of the rounds counts.

Needs torch, torchvision and numpy (requirements.txt).
"""
import argparse
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torchvision import transforms


class Cifar100(torch.utils.data.Dataset):
    """What torchvision.datasets.CIFAR100 does, from the binary files."""

    def __init__(self, root, transform):
        records = np.fromfile(Path(root) / "cifar-100-binary" / "train.bin", np.uint8)
        records = records.reshape(-1, 3074)
        self.data = records[:, 2:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy()
        self.targets = records[:, 1].tolist()
        self.transform = transform

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.data[index])), self.targets[index]


def peer(name, root):
    if name == "cifar100":
        return Cifar100(root, transforms.Compose([
            transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(),
            transforms.ToTensor()]))
    return torchvision.datasets.ImageFolder(Path(root) / "train", transforms.Compose([
        transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(),
        transforms.ToTensor()]))


def images_per_second(loader, seconds):
    """Over whole epochs, after one that does not count; the workers stay."""
    for _ in loader:
        pass
    start = time.perf_counter()
    images = 0
    while time.perf_counter() - start < seconds or images == 0:
        for batch, _ in loader:
            images += len(batch)
    return images / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--cifar100")
    parser.add_argument("--image-folder")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| images/s, %d workers | torchvision %s | bsconv | bsconv, channels last | ratio |" %
          (arguments.workers, torchvision.__version__))
    print("| --- | --- | --- | --- | --- |")
    for name, root in (("cifar100", arguments.cifar100), ("image_folder", arguments.image_folder)):
        if root is None:
            continue
        loader = torch.utils.data.DataLoader(
            peer(name, root), batch_size=128, shuffle=True, num_workers=arguments.workers,
            persistent_workers=arguments.workers > 0)
        times = {"torchvision": [], "plain": [], "channels_last": []}
        for _ in range(arguments.rounds):
            times["torchvision"].append(images_per_second(loader, arguments.seconds))
            for key in ("plain", "channels_last"):
                command = [arguments.program, name, root, str(arguments.workers),
                           str(arguments.seconds)] + ([key] if key == "channels_last" else [])
                times[key].append(float(subprocess.run(command, check=True, text=True,
                                                       stdout=subprocess.PIPE).stdout))
        theirs, plain, last = (statistics.median(times[key]) for key in times)
        print(f"| {name} | {theirs:,.0f} | {plain:,.0f} | {last:,.0f} | {plain / theirs:.1f} |",
              flush=True)


if __name__ == "__main__":
    main()
