# SPDX-License-Identifier: BSD-3-Clause-Clear
"""What the benchmarks of whole models share."""
import contextlib
import ctypes
import gc
import io
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path


def processor():
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def input_of(name):
    """The side of a model's images and its number of classes."""
    return (32, 100) if name.startswith("cifar_") else (224, 1000)


def reference_model(name):
    """The Python package's model, without what it prints."""
    import bsconv.pytorch

    with contextlib.redirect_stdout(io.StringIO()):
        return bsconv.pytorch.get_model(name, num_classes=input_of(name)[1])


def least_seconds(call, seconds, fewest):
    """The least seconds of a call, over at least `seconds` and `fewest` calls."""
    times = []
    start = time.perf_counter()
    while len(times) < fewest or time.perf_counter() - start < seconds:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)


def give_memory_back():
    """Returns to the system what nothing refers to any more."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def bench(program, name, batch, threads, seconds, *flags):
    """The row that `bsconv bench` prints."""
    command = [program, "bench", name, "--batch", str(batch), "--threads", str(threads)]
    command += ["--seconds", str(seconds), "--format", "json", *flags]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


class Results:
    """Rows as lines of JSON in a file, of which a later run goes on."""

    def __init__(self, file):
        self.file = file
        self.rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def measured(self, name, batch, threads, measure):
        """The row of a model: as it stands in the file, or what `measure` returns.

        It is measured in a process of its own: nothing that one peer leaves behind slows the next
        model.
        """
        for row in self.rows:
            if (row["model"], row["batch"], row["threads"]) == (name, batch, threads):
                return row
        pid = os.fork()
        if pid == 0:
            row = measure()
            with self.file.open("a") as file:
                file.write(json.dumps(row) + "\n")
            os._exit(0)
        if os.waitpid(pid, 0)[1] != 0:
            sys.exit(f"{name} failed")
        self.rows.append(json.loads(self.file.read_text().splitlines()[-1]))
        return self.rows[-1]
