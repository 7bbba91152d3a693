// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

/// \file
/// Training on several processes and machines. Needs Gloo's headers (component `distributed`).

// IWYU pragma: begin_exports
#include <bsconv/distributed/process_group.hpp>
#include <bsconv/distributed/rendezvous.hpp>
#include <bsconv/distributed/sync_batch_norm.hpp>
// IWYU pragma: end_exports
