#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause-Clear
"""Times training steps beside those of the Python package, in turn, on one machine.

    python3 benchmarks/training.py --program build/default/bin/bsconv --out results [NAME...]

The peers are the Python package's model in eager PyTorch (NCHW and channels_last) and compiled by
Inductor (channels_last), and with --device cuda the eager one as a CUDA graph. A step is forward
pass, cross entropy and regularization loss, backward pass and SGD. Every round times each of them
and then `bsconv bench --train`; the least time of all rounds counts. Writes training.jsonl and a
table as Markdown, and goes on where it was stopped. With --growth the models are ResNets of growing
depth and WRNs of growing width, and a plot as SVG shows them.

Needs the packages of requirements.txt in a virtual environment.
"""
import argparse
import warnings
from pathlib import Path

import common

MODELS = [
    "cifar_resnet20_bsconvu",
    "cifar_resnet20_bsconvs_p1d4",
    "cifar_resnet56_bsconvu",
    "cifar_wrn16_4_bsconvs_p1d4",
    "cifar_mobilenetv1_w1_bsconvu",
]
DEPTHS = (20, 56, 110, 302, 602)
WIDTHS = (1, 2, 4, 10)
GROWTH = {
    "depth": {depth: f"cifar_resnet{depth}_bsconvu" for depth in DEPTHS},
    "width": {width: f"cifar_wrn16_{width}_bsconvu" for width in WIDTHS},
}
WAYS = ("eager", "eager_channels_last", "compile", "cuda_graph")


class Peer:
    """The Python package's model with its optimizer, on one batch."""

    def __init__(self, name, batch, device, channels_last, compiled):
        import torch

        side, classes = common.input_of(name)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model = common.reference_model(name).to(device).to(memory_format=layout)
        self.forward = torch.compile(self.model) if compiled else self.model
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4
        )
        self.loss = torch.nn.CrossEntropyLoss()
        self.images = torch.randn(batch, 3, side, side, device=device).to(memory_format=layout)
        self.labels = torch.randint(0, classes, (batch,), device=device)

    def loss_of_step(self):
        self.optimizer.zero_grad()
        loss = self.loss(self.forward(self.images), self.labels)
        if hasattr(self.model, "reg_loss"):
            loss = loss + self.model.reg_loss(alpha=0.1)
        loss.backward()
        self.optimizer.step()
        return loss

    def step(self):
        # Fetching the loss waits for the device.
        return self.loss_of_step().item()


class RecordedPeer(Peer):
    """The same as a CUDA graph, whose steps are repeated."""

    def __init__(self, name, batch, device):
        import torch

        super().__init__(name, batch, device, True, False)
        torch.backends.cudnn.benchmark = True
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(4):
                self.loss_of_step()
        torch.cuda.current_stream().wait_stream(stream)
        self.optimizer.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.result = self.loss_of_step()
        torch.backends.cudnn.benchmark = False

    def step(self):
        self.graph.replay()
        return self.result.item()


def measure(arguments, name, batch, threads):
    import torch

    torch.set_num_threads(threads)
    peers = {
        "eager": Peer(name, batch, arguments.device, False, False),
        "eager_channels_last": Peer(name, batch, arguments.device, True, False),
    }
    if not arguments.no_compile:
        peers["compile"] = Peer(name, batch, arguments.device, True, True)
    if arguments.device.startswith("cuda"):
        peers["cuda_graph"] = RecordedPeer(name, batch, arguments.device)
    for way, peer in list(peers.items()):
        try:
            peer.step()
            peer.step()
        except RuntimeError as error:
            # Inductor recurses too deeply for the deepest networks.
            print(f"{name}: {way} is left out: {str(error).strip().splitlines()[0]}", flush=True)
            del peers[way]
    rates = {}
    peak = 0.0
    for left in reversed(range(arguments.rounds)):
        for way, peer in peers.items():
            rate = batch / common.least_seconds(peer.step, arguments.seconds, 2)
            rates[way] = max(rates.get(way, 0.0), rate)
        if left == 0:
            # Very deep networks don't fit twice.
            del peer
            peers.clear()
            common.give_memory_back()
        flags = ("--train", "--device", arguments.device)
        ours = common.bench(arguments.program, name, batch, threads, 2 * arguments.seconds, *flags)
        for way, rate in (("libtorch", "eager"), ("fused", "fused")):
            rates[way] = max(rates.get(way, 0.0), ours["images_per_s"][rate])
        macs = ours["gmacs"] / ours["images_per_s"]["fused"]
        if ours["peak_share"] > 0:
            peak = max(peak, ours["gmacs"] / ours["peak_share"])
    return {
        "model": name,
        "batch": batch,
        "threads": threads,
        "device": arguments.device,
        "images_per_s": {way: round(rate, 1) for way, rate in rates.items()},
        "peak_mib": ours.get("peak_mib"),
        "gmacs": round(macs * rates["fused"], 2),
        "peak_gmacs": round(peak, 2),
    }


def write_table(rows, file):
    lines = [
        f"Processor: {common.processor()}. How many times as many images a second the fused operators",
        "train as each other way; then the same for the fastest of the Python package's ways, the",
        "memory of a step (LibTorch's operators, fused), and the share of the measured multiply-add",
        "peak that the fused operators reach.",
        "",
        "| model | batch | threads | libtorch | " + " | ".join(WAYS) + " | fastest | MiB | peak |",
        "|---|--:|--:|--:|" + "--:|" * (len(WAYS) + 3),
    ]
    for row in rows:
        rates = row["images_per_s"]
        ways = [way for way in WAYS if way in rates]
        cells = [f"{rates['fused'] / rates[way]:.2f}" if way in rates else "" for way in ("libtorch", *WAYS)]
        cells.append(f"**{rates['fused'] / max(rates[way] for way in ways):.2f}**")
        memory = row["peak_mib"]
        cells.append(f"{memory['eager']:.0f}, {memory['fused']:.0f}" if memory else "")
        peak = max(r["peak_gmacs"] for r in rows if r["threads"] == row["threads"])
        cells.append(f"{100 * row['gmacs'] / peak:.0f} %" if peak else "")
        lines.append(f"| `{row['model']}` | {row['batch']} | {row['threads']} | " + " | ".join(cells) + " |")
    file.write_text("\n".join(lines) + "\n")


def write_growth(rows, file):
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    by_model = {row["model"]: row["images_per_s"] for row in rows}
    figure, panels = pyplot.subplots(1, len(GROWTH), figsize=(9, 3.6), sharey=True)
    for axes, (what, models) in zip(panels, GROWTH.items()):
        for way in ("fused", "libtorch", *WAYS):
            points = [
                (size, by_model[name][way])
                for size, name in models.items()
                if way in by_model.get(name, {})
            ]
            axes.plot(*zip(*points), marker="o", markersize=3, label=way) if points else None
        axes.set(xscale="log", yscale="log", xlabel=what)
        axes.set_xticks(list(models), list(models))
        axes.minorticks_off()
    panels[0].set_ylabel("images/s")
    panels[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("models", nargs="*", metavar="NAME")
    parser.add_argument("--program", default="build/default/bin/bsconv")
    parser.add_argument("--out", type=Path, default=Path("benchmark-results"))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="per way and round")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--growth", action="store_true", help="depths and widths, and their plot")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    arguments.out.mkdir(parents=True, exist_ok=True)
    growth = [name for models in GROWTH.values() for name in models.values()]
    results = common.Results(arguments.out / "training.jsonl")
    for name in arguments.models or (growth if arguments.growth else MODELS):
        row = results.measured(
            name,
            arguments.batch,
            arguments.threads,
            lambda: measure(arguments, name, arguments.batch, arguments.threads),
        )
        print(name, row["images_per_s"], flush=True)
    write_table(results.rows, arguments.out / "training.md")
    if arguments.growth:
        write_growth(results.rows, arguments.out / "training_growth.svg")


if __name__ == "__main__":
    main()
