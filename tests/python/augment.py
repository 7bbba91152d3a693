# SPDX-License-Identifier: BSD-3-Clause-Clear
"""torchvision's side of data_torchvision_test.cpp.

    augment.py compare DIR    reads DIR/images.pth and DIR/requests.jsonl, writes DIR/results.pth
    augment.py golden         writes tests/golden/augment.jsonl to the standard output

A request is {"operation": NAME, "values": [[…] for each image]}.
"""
import json
import math
import sys
from pathlib import Path

import torch
import torchvision.transforms.functional as pil
from torchvision.transforms import InterpolationMode
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F


def through_pil(image, change):
    return pil.pil_to_tensor(change(pil.to_pil_image(image)))


def shift(image, translate=(0, 0), shear=(0.0, 0.0)):
    return F.affine(image, angle=0.0, translate=list(translate), scale=1.0, center=[0, 0],
                    shear=[math.degrees(math.atan(tangent)) for tangent in shear],
                    interpolation=InterpolationMode.NEAREST)


def crop_flip(image, padding, top, left, flip):
    height, width = image.shape[-2:]
    image = F.crop(F.pad(image, [int(padding)] * 4), int(top), int(left), height, width)
    return F.horizontal_flip(image) if flip else image


OPERATIONS = {
    "crop_flip": crop_flip,
    "center_crop": lambda image, h, w: F.center_crop(image, [int(h), int(w)]),
    "resize": lambda image, h, w: through_pil(image, lambda x: pil.resize(x, [int(h), int(w)])),
    "resized_crop": lambda image, top, left, h, w, height, width: through_pil(
        image, lambda x: pil.resized_crop(x, int(top), int(left), int(h), int(w),
                                          [int(height), int(width)])),
    "erase": lambda image, top, left, h, w: F.erase(
        image, int(top), int(left), int(h), int(w), torch.zeros((), dtype=torch.uint8)),
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "saturation": F.adjust_saturation,
    "hue": F.adjust_hue,
    "sharpness": F.adjust_sharpness,
    "posterize": lambda image, bits: F.posterize(image, int(bits)),
    "solarize": F.solarize,
    "autocontrast": F.autocontrast,
    "equalize": F.equalize,
    "shear_x": lambda image, tangent: shift(image, shear=(tangent, 0.0)),
    "shear_y": lambda image, tangent: shift(image, shear=(0.0, tangent)),
    "translate_x": lambda image, pixels: shift(image, translate=(int(pixels), 0)),
    "translate_y": lambda image, pixels: shift(image, translate=(0, int(pixels))),
    "rotate": lambda image, degrees: F.rotate(image, degrees),
}


def mix(images, values):
    """Images and targets of v2.MixUp ([share]) or v2.CutMix ([top, left, bottom, right])."""
    labels = torch.arange(len(images))
    images = images.float() / 255
    params = {"labels": labels, "batch_size": len(images)}
    if len(values) == 1:
        transform = v2.MixUp(alpha=1.0, num_classes=len(images))
        params["lam"] = values[0]
    else:
        top, left, bottom, right = (int(value) for value in values)
        transform = v2.CutMix(alpha=1.0, num_classes=len(images))
        params["box"] = (left, top, right, bottom)
        area = images.shape[-1] * images.shape[-2]
        params["lam_adjusted"] = 1.0 - (right - left) * (bottom - top) / area
    return transform.transform(images, params), transform.transform(labels, params)


def run(operation, images, values):
    return torch.stack([OPERATIONS[operation](image, *v) for image, v in zip(images, values)])


def compare(folder):
    images = torch.load(folder / "images.pth")["images"]
    results = {}
    for number, line in enumerate((folder / "requests.jsonl").read_text().splitlines()):
        request = json.loads(line)
        operation, values = request["operation"], request["values"]
        if operation == "mix":
            results[f"{number}"], results[f"{number}.targets"] = mix(images, values[0])
        else:
            results[f"{number}"] = run(operation, images, values)
    torch.save(results, folder / "results.pth")


def golden_images():
    n, c, y, x = torch.meshgrid(*(torch.arange(size) for size in (2, 3, 8, 10)), indexing="ij")
    return ((y * y * 7 + x * 31 + c * 50 + x * y * 3 + n * 97) % 256).to(torch.uint8)


GOLDEN = {
    "crop_flip": [[2, 1, 4, 1], [2, 3, 0, 0]],
    "center_crop": [[5, 4], [5, 4]],
    "resize": [[5, 7], [5, 7]],
    "resized_crop": [[1, 2, 6, 7, 5, 5], [0, 3, 4, 4, 5, 5]],
    "erase": [[1, 2, 3, 4], [0, 0, 8, 1]],
    "brightness": [[0.4], [1.7]],
    "contrast": [[0.3], [1.6]],
    "saturation": [[0.2], [1.9]],
    "hue": [[0.3], [-0.45]],
    "sharpness": [[0.3], [1.8]],
    "posterize": [[2], [5]],
    "solarize": [[100.0], [200.0]],
    "autocontrast": [[], []],
    "equalize": [[], []],
    "shear_x": [[0.3], [-0.8]],
    "shear_y": [[0.45], [-0.2]],
    "translate_x": [[3.7], [-2]],
    "translate_y": [[2], [-5.2]],
    "rotate": [[31.0], [-77.0]],
}


if __name__ == "__main__":
    if sys.argv[1] == "compare":
        compare(Path(sys.argv[2]))
    else:
        for operation, values in GOLDEN.items():
            result = run(operation, golden_images(), values)
            print(json.dumps({"operation": operation, "values": values, "shape": list(result.shape),
                              "expected": result.flatten().tolist()}, separators=(",", ":")))
