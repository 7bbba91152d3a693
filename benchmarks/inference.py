#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause-Clear
"""Times optimized models beside what one would run instead, in turn, on one machine.

    python3 benchmarks/inference.py --program build/default/bin/bsconv --out results NAME...

The peers are the Python package's model in eager PyTorch (NCHW and channels_last), in TorchScript,
compiled by Inductor with freezing, in ONNX Runtime and in OpenVINO (f32 and bf16). Every round times
each of them and then `bsconv bench`, in f32 and, where the processor can, in bf16; the least time of
all rounds counts. Writes results.jsonl, a table as Markdown and a plot as SVG, and goes on where it
was stopped.

Needs the packages of requirements.txt in a virtual environment.
"""
import argparse
import contextlib
import os
import subprocess
import tempfile
import warnings
from pathlib import Path

import common

CIFAR = [
    f"cifar_resnet{depth}_{kind}" for kind in ("bsconvu", "bsconvs_p1d4") for depth in (20, 56, 110)
]
MODELS = CIFAR + [
    "mobilenetv2_w1",
    "mobilenetv3_large_w1",
    "mobilenetv3_small_w1",
    "cifar_wrn28_10_bsconvu",
    "cifar_wrn28_10_bsconvs_p1d4",
    "resnet18_bsconvu",
    "mobilenetv1_w1_bsconvu",
    "cifar_resnet20",
    "resnet18",
]
RIVALS = ("onnxruntime", "openvino_f32", "inductor_freezing")


def make_peers(name, batch, threads, inductor):
    """Callables by name that run one batch each."""
    import onnxruntime
    import openvino
    import torch

    torch.set_num_threads(threads)
    side, _ = common.input_of(name)

    def make():
        return common.reference_model(name).eval()

    x = torch.randn(batch, 3, side, side)
    x_last = x.to(memory_format=torch.channels_last)
    model = make()
    model_last = make().to(memory_format=torch.channels_last)

    def quietly(run, *arguments):
        with torch.inference_mode():
            run(*arguments)

    peers = {
        "eager": lambda: quietly(model, x),
        "eager_channels_last": lambda: quietly(model_last, x_last),
    }
    with torch.no_grad():
        scripted = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(model, x)))
        peers["torchscript"] = lambda: scripted(x)
        if inductor:
            from torch._inductor import config

            config.freezing = True
            compiled = torch.compile(model)
            compiled(x)

            def run_compiled():
                with torch.no_grad():
                    compiled(x)

            peers["inductor_freezing"] = run_compiled
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "model.onnx")
            torch.onnx.export(make(), x, file, dynamo=False, opset_version=17)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
            feed = {session.get_inputs()[0].name: x.numpy()}
            peers["onnxruntime"] = lambda: session.run(None, feed)
            core = openvino.Core()
            read = core.read_model(file)
            for precision in ("f32", "bf16"):
                settings = {
                    "INFERENCE_NUM_THREADS": threads,
                    "INFERENCE_PRECISION_HINT": precision,
                    "PERFORMANCE_HINT": "LATENCY",
                }
                request = core.compile_model(read, "CPU", settings).create_infer_request()
                peers[f"openvino_{precision}"] = lambda request=request: request.infer({0: x.numpy()})
    for peer in peers.values():
        peer()
        peer()
    return peers


def measure(arguments, name, batch, threads):
    peers = make_peers(name, batch, threads, not arguments.no_inductor)
    ms = {}
    peak = 0.0
    for _ in range(arguments.rounds):
        for peer, call in peers.items():
            taken = 1e3 * common.least_seconds(call, arguments.seconds, 3)
            ms[peer] = min(ms.get(peer, taken), taken)
        ours = common.bench(arguments.program, name, batch, threads, 2 * arguments.seconds)
        ms["fused"] = min(ms.get("fused", ours["ms"]["fused"]), ours["ms"]["fused"])
        # Refused where the processor has no instructions for it.
        with contextlib.suppress(subprocess.CalledProcessError):
            rounded = common.bench(
                arguments.program, name, batch, threads, 2 * arguments.seconds, "--dtype", "bf16"
            )["ms"]["fused"]
            ms["fused_bf16"] = min(ms.get("fused_bf16", rounded), rounded)
        work = ours["gmacs"] * ours["ms"]["fused"]
        peak = max(peak, ours["gmacs"] / ours["peak_share"])
    return {
        "model": name,
        "batch": batch,
        "threads": threads,
        "ms": {way: round(value, 4) for way, value in ms.items()},
        "gmacs": round(work / ms["fused"], 2),
        "peak_gmacs": round(peak, 2),
    }


def ratio(row):
    rivals = [row["ms"][rival] for rival in RIVALS if rival in row["ms"]]
    return min(rivals) / row["ms"]["fused"]


def peak_share(row, rows):
    """The share of the peak; the greatest of all that were measured, as other work disturbs it."""
    return row["gmacs"] / max(r["peak_gmacs"] for r in rows if r["threads"] == row["threads"])


def write_table(rows, file):
    ways = ["eager", "eager_channels_last", "torchscript", "inductor_freezing", "onnxruntime"]
    ways += ["openvino_f32"]
    lines = [
        f"Processor: {common.processor()}. How many times as long as the optimized model each takes; the",
        "columns behind them: the least of Inductor, ONNX Runtime and OpenVINO in f32, and the share of",
        "the measured multiply-add peak that the optimized model reaches. Last, OpenVINO in bf16 beside",
        "the optimized model in f32 and in bf16.",
        "",
        "| model | batch | threads | " + " | ".join(ways) + " | fastest f32 | peak | bf16 to f32 | bf16 |",
        "|---|--:|--:|" + "--:|" * (len(ways) + 4),
    ]
    for row in rows:
        cells = [
            f"{row['ms'][way] / row['ms']['fused']:.2f}" if way in row["ms"] else "" for way in ways
        ]
        cells += [f"**{ratio(row):.2f}**", f"{100 * peak_share(row, rows):.0f} %"]
        for ours in ("fused", "fused_bf16"):
            both = ours in row["ms"] and "openvino_bf16" in row["ms"]
            cells.append(f"{row['ms']['openvino_bf16'] / row['ms'][ours]:.2f}" if both else "")
        lines.append(f"| `{row['model']}` | {row['batch']} | {row['threads']} | " + " | ".join(cells) + " |")
    file.write_text("\n".join(lines) + "\n")


def write_plot(rows, file):
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 0.32 * len(rows) + 1.2))
    labels = [f"{row['model']}  b{row['batch']} t{row['threads']}" for row in rows]
    ways = (
        ("onnxruntime", "o", "ONNX Runtime"),
        ("openvino_f32", "s", "OpenVINO"),
        ("inductor_freezing", "^", "Inductor"),
    )
    for way, marker, label in ways:
        points = [(row["ms"][way] / row["ms"]["fused"], i) for i, row in enumerate(rows) if way in row["ms"]]
        axes.scatter([x for x, _ in points], [y for _, y in points], marker=marker, label=label)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("time / time of the optimized model")
    axes.set_xscale("log")
    ticks = [1, 1.25, 1.5, 2, 3, 5, 10, 20]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(axis="x", linewidth=0.4)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("models", nargs="*", default=MODELS, metavar="NAME")
    parser.add_argument("--program", default="build/default/bin/bsconv")
    parser.add_argument("--out", type=Path, default=Path("benchmark-results"))
    parser.add_argument("--settings", default="1x1,64x2", help="batch x threads, comma-separated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.6, help="per way and round")
    parser.add_argument("--no-inductor", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = common.Results(arguments.out / "results.jsonl")
    for setting in arguments.settings.split(","):
        batch, threads = map(int, setting.split("x"))
        for name in arguments.models:
            row = results.measured(name, batch, threads, lambda: measure(arguments, name, batch, threads))
            print(f"{name:34} batch {batch} threads {threads}: {ratio(row):.2f}", flush=True)
    rows = results.rows
    write_table(rows, arguments.out / "inference.md")
    write_plot(rows, arguments.out / "inference.svg")


if __name__ == "__main__":
    main()
