# SPDX-License-Identifier: BSD-3-Clause-Clear
"""Writes the seeds of the fuzzers beside it.

Needs torch 2.11.0, safetensors, numpy, scipy, pillow and onnx.
"""
import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import safetensors.torch
import scipy.io
import torch
from PIL import Image

folder = Path(__file__).parent
pth = folder.parent / "pth"


def write(target, name, data):
    path = folder / target / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)


tensors = {
    "a.weight": torch.arange(6.0).reshape(2, 3),
    "half": torch.ones(3, dtype=torch.float16),
    "bool": torch.tensor([True, False]),
    "empty": torch.empty(0, 2),
    "scalar": torch.tensor(7, dtype=torch.int64),
    "ключ": torch.ones(1, dtype=torch.bfloat16),
}
write("safetensors", "tensors", safetensors.torch.save(tensors, {"format": "pt"}))
write("safetensors", "empty", safetensors.torch.save({}))

for name in ("zip", "legacy", "protocol4", "checkpoint", "nested", "evil"):
    data = (pth / f"{name}.pth").read_bytes()
    write("pth", name, data)
    if name != "legacy":
        write("zip", name, data)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entry = next(n for n in archive.namelist() if n.endswith("data.pkl"))
            write("pickle", name, archive.read(entry))
plain = {"a": [1, 2.5, None, True, b"raw", "text"], "b": (1, (2, (3,))), "big": 2**70, "set": [[]]}
for protocol in range(5):
    write("pickle", f"plain{protocol}", pickle.dumps(plain, protocol=protocol))

records = b"".join(bytes([i % 2, i % 3]) + bytes(3072) for i in range(2))
write("cifar", "file", b"\0" + records)
write("cifar", "names", b"\0one\ntwo\r\nthree\n")
for mode in ("", "gz", "bz2", "xz"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{mode}") as archive:
        for name, data in (("names_file.txt", b"one\ntwo\nthree\n"), ("test.bin", records)):
            info = tarfile.TarInfo(f"cifar/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    write("cifar", f"tar{mode}", buffer.getvalue())

texts = np.empty((3, 1), dtype=object)
texts[:, 0] = ["n02085620/n02085620_1.jpg", "b", "c/d"]
for compressed in (False, True):
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"file_list": texts}, do_compression=compressed)
    write("matlab", "compressed" if compressed else "plain", buffer.getvalue())

ramp = np.arange(24 * 20 * 3, dtype=np.uint32).reshape(24, 20, 3) * 37 % 256
rgb = Image.fromarray(ramp.astype(np.uint8), "RGB")
for kind, image, settings in (
    ("png", rgb, {}),
    ("png", rgb.convert("L"), {}),
    ("png", rgb.convert("P"), {}),
    ("png", rgb.convert("1"), {}),
    ("png", rgb.convert("RGBA"), {}),
    ("png", Image.fromarray(ramp[..., 0].astype(np.uint16)), {}),
    ("jpeg", rgb, {"quality": 50}),
    ("jpeg", rgb, {"quality": 90, "progressive": True, "subsampling": 0}),
    ("jpeg", rgb.convert("L"), {}),
    ("jpeg", rgb.convert("CMYK"), {}),
    ("ppm", rgb, {}),
    ("ppm", rgb.convert("L"), {}),
):
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    name = "_".join([kind, image.mode.replace(";", ""), *(f"{k}{v}" for k, v in settings.items())])
    write("image", name, b"\0" + buffer.getvalue())
    write("image", name + "_part", b"\x25" + buffer.getvalue())

image = onnx.helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["batch", 3, 8, 8])
logits = onnx.helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, ["batch", 4])
nodes = [
    onnx.helper.make_node("Conv", ["input", "weight", ""], ["a"], "conv", pads=[1] * 4, group=1),
    onnx.helper.make_node("LeakyRelu", ["a"], ["b"], "relu", alpha=0.5),
    onnx.helper.make_node("Einsum", ["b"], ["output"], "sum", equation="bchw->bc"),
]
weight = np.arange(4 * 3 * 3 * 3, dtype=np.float32).reshape(4, 3, 3, 3)
for name, values in (
    ("raw", onnx.numpy_helper.from_array(weight, "weight")),
    ("listed", onnx.helper.make_tensor("weight", onnx.TensorProto.FLOAT, [4, 3, 3, 3], weight.ravel())),
):
    graph = onnx.helper.make_graph(nodes, "graph", [image], [logits], [values])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    onnx.helper.set_model_props(model, {"key": "value"})
    write("onnx", name, model.SerializeToString())

metrics = [1.5, 1.25, 0.25, 0.5, 0.75, None]
state = {
    "architecture": "cifar_resnet20_bsconvu",
    "dataset": "digits",
    "class_names": ["one", "two"],
    "in_channels": 3,
    "program_settings": {"augment": "none"},
    "settings": {"epochs": 2, "optimizer": "sgd", "schedule": [1], "nesterov": True},
    "epoch": 1,
    "step": 3,
    "ema_updates": 4,
    "partial": {"loss": 1.5, "cross_entropy": 1.25, "regularization": None, "correct": 1, "examples": 2},
    "history": [
        {
            "epoch": 1,
            "epochs": 2,
            "learning_rate": 0.1,
            "train": metrics,
            "test": metrics,
            "best_accuracy": 0.5,
            "best_epoch": 1,
            "seconds": 0.5,
            "images_per_second": 4,
        }
    ],
}
parts = {"model/a": torch.ones(2), "momentum/a": torch.zeros(2), "generator/cpu": torch.ones(3)}
for name, tensors in (("whole", parts), ("empty", {})):
    metadata = {"format": "bsconv-checkpoint", "version": "1", "state": json.dumps(state)}
    write("checkpoint", name, safetensors.torch.save(tensors, metadata))

card = {
    "name": "cifar_resnet20_bsconvu.digits",
    "architecture": "cifar_resnet20_bsconvu",
    "dataset": "digits",
    "top1": 98.5,
    "top5": None,
    "parameters": 40720,
    "flops": 7850634,
    "input_size": 32,
    "in_channels": 3,
    "epoch": 30,
    "hardware": "a machine",
    "version": "0.1.0",
    "weights": "cifar_resnet20_bsconvu.digits.safetensors",
    "sha256": "00" * 32,
    "settings": {"epochs": "30"},
    "class_names": ["0", "1"],
}
write("card", "plain", json.dumps(card).encode())
write("card", "indented", json.dumps(card | {"top5": 100, "more": [{}]}, indent=2).encode())
