#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause-Clear
"""Write include/bsconv/data/digits_data.hpp from scikit-learn's copy of UCI Optdigits.

    python3 -m venv venv && venv/bin/pip install scikit-learn
    venv/bin/python tools/make_digits.py > include/bsconv/data/digits_data.hpp

Each record is its label '0'..'9' followed by 64 values in row order: 'A'..'Q' stand for 0..16,
'b'..'z' for a run of 2..26 zeros.
"""

from sklearn.datasets import load_digits

LONGEST_RUN = 26
LINE = 95
CHUNK = 50_000

HEADER = """\
// SPDX-License-Identifier: CC-BY-4.0
// Written by tools/make_digits.py; do not edit.
//
// Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, 1998, UCI Machine Learning
// Repository, https://doi.org/10.24432/C50P49, licensed under CC BY 4.0. Changes: the test part of
// the set (1,797 images of 8 x 8 pixels, values 0..16), re-encoded as text.
#pragma once

#include <array>
#include <string_view>

namespace bsconv::data::detail {

/// Each record is its label '0'..'9' followed by 64 values in row order: 'A'..'Q' stand for 0..16,
/// 'b'..'z' for a run of 2..26 zeros. The pieces are one text, cut anywhere.
"""


def encode(values):
    """Return the 64 values of one image as text."""
    out, i = [], 0
    while i < len(values):
        run = 0
        while i + run < len(values) and values[i + run] == 0 and run < LONGEST_RUN:
            run += 1
        if run >= 2:
            out.append(chr(ord("a") + run - 1))
            i += run
        else:
            out.append(chr(ord("A") + values[i]))
            i += 1
    return "".join(out)


def main():
    digits = load_digits()
    images = digits.data.astype(int)
    assert images.shape == (1797, 64) and images.min() == 0 and images.max() == 16
    text = "".join(str(int(t)) + encode(list(v)) for t, v in zip(digits.target, images))
    chunks = [text[i : i + CHUNK] for i in range(0, len(text), CHUNK)]
    print(HEADER, end="")
    print("// clang-format off")
    print(f"inline constexpr std::array<std::string_view, {len(chunks)}> digits_text = {{")
    for chunk in chunks:
        lines = [chunk[i : i + LINE] for i in range(0, len(chunk), LINE)]
        print("\n".join(f'  "{line}"' for line in lines) + ",")
    print("};")
    print("// clang-format on")
    print("\n}  // namespace bsconv::data::detail")


if __name__ == "__main__":
    main()
