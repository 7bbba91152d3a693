#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause-Clear
"""Writes the scalars that TensorBoard reads from a folder as JSON: {tag: [[step, value], …]}.

read_events.py FOLDER OUT
"""
import json
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

folder, out = sys.argv[1:]
events = EventAccumulator(folder)
events.Reload()
with open(out, "w") as file:
    json.dump({tag: [[e.step, e.value] for e in events.Scalars(tag)]
               for tag in events.Tags()["scalars"]}, file)
