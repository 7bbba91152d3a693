#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause-Clear
"""Install LibTorch from the PyPI wheel into a cache folder and print its directory.

    fetch_libtorch.py --version 2.11.0 --cache DIR [--cuda]

The wheel is a full LibTorch. Without --cuda only the two CUDA libraries that libtorch_cpu.so itself
needs come with it. A folder is complete once it has its final name.
"""
import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile


def pip_command(cache):
    """A command that runs pip: this Python's, or that of a virtual environment of our own."""
    own = [sys.executable, "-m", "pip"]
    if subprocess.run(own + ["--version"], capture_output=True).returncode == 0:
        return own
    environment = cache / "pip"
    python = environment / "bin" / "python3"
    if not python.exists():
        made = subprocess.run([sys.executable, "-m", "venv", str(environment)],
                              capture_output=True, text=True)
        if made.returncode != 0:
            shutil.rmtree(environment, ignore_errors=True)
            sys.exit("pip is missing; type: apt-get install python3-pip python3-venv")
    return [str(python), "-m", "pip"]


def install(pip, target, *requirements):
    command = pip + ["install", "--quiet", "--no-warn-script-location",
                     "--disable-pip-version-check", "--target", str(target), *requirements]
    # A flag of that name came with pip 22.1.
    environment = {**os.environ, "PIP_ROOT_USER_ACTION": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")


def cuda_runtime(target):
    """The requirement for the CUDA libraries that libtorch_cpu.so links."""
    metadata = next(target.glob("torch-*.dist-info")) / "METADATA"
    match = re.search(r"^Requires-Dist: cuda-toolkit\[[^\]]*\]==([0-9.]+)", metadata.read_text(),
                      re.MULTILINE)
    return f"cuda-toolkit[cudart,cupti]=={match.group(1)}" if match else None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--version", required=True)
    parser.add_argument("--cache", required=True, type=pathlib.Path)
    parser.add_argument("--cuda", action="store_true", help="with all CUDA libraries")
    options = parser.parse_args()
    name = f"libtorch-{options.version}{'-cuda' if options.cuda else ''}"
    final = options.cache / name
    if not final.exists():
        options.cache.mkdir(parents=True, exist_ok=True)
        pip = pip_command(options.cache)
        with tempfile.TemporaryDirectory(dir=options.cache, prefix=name + "-") as folder:
            target = pathlib.Path(folder) / "site"
            wheel = f"torch=={options.version}"
            if options.cuda:
                install(pip, target, wheel)
            else:
                install(pip, target, "--no-deps", wheel)
                runtime = cuda_runtime(target)
                if runtime:
                    install(pip, target, runtime)
            target.rename(final)
    print(final / "torch")


if __name__ == "__main__":
    main()
