// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

namespace bsconv {

/// Says of a module that derives from it that its `forward` never asks for its own mode
/// (`is_training()`), only for that of its children, so that `graft` may register those in its
/// place.
class ModeOfChildren {
 protected:
  ~ModeOfChildren() = default;
};

}  // namespace bsconv
