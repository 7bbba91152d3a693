// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/macros/Export.h>
#include <torch/library.h>
#include <torch/types.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <vector>

/// \file
/// Sees every operator that a piece of code runs.

namespace bsconv {

/// One operator that has run.
struct OperatorCall {
  /// The operator, with its schema.
  const c10::OperatorHandle& op;
  /// Its arguments, in schema order.
  const std::vector<c10::IValue>& inputs;
  /// Its results.
  const std::vector<c10::IValue>& outputs;
  /// How long it took, in seconds on the calling thread; see `OperatorObserver::settle`.
  double seconds;
};

/// Is told what runs while an `OperatorCapture` lives.
class OperatorObserver {
 public:
  OperatorObserver() = default;
  OperatorObserver(const OperatorObserver&) = delete;
  OperatorObserver& operator=(const OperatorObserver&) = delete;
  OperatorObserver(OperatorObserver&&) = delete;
  OperatorObserver& operator=(OperatorObserver&&) = delete;
  virtual ~OperatorObserver() = default;

  /// Whether to report the operators that `op` consists of instead of `op` itself.
  virtual bool looks_inside(const c10::OperatorHandle& op,
                            const std::vector<c10::IValue>& inputs) = 0;

  /// The results of what runs in place of `op`, which then doesn't run and is not reported; none if
  /// `op` runs itself, as it does by default.
  virtual std::optional<std::vector<c10::IValue>> replacement(
      const c10::OperatorHandle& op, const std::vector<c10::IValue>& inputs) {
    (void)op;
    (void)inputs;
    return std::nullopt;
  }

  /// Is called right before an operator's time starts and right before it ends. An observer that
  /// wants the time of a device waits for it here.
  virtual void settle(const std::vector<c10::IValue>& inputs) { (void)inputs; }

  /// An operator has run.
  virtual void ran(const OperatorCall& call) = 0;
};

namespace detail {

/// Whether a result of `op` may be a view of an argument.
inline bool returns_view(const c10::OperatorHandle& op) {
  const auto& returns = op.schema().returns();
  return std::any_of(returns.begin(), returns.end(), [](const c10::Argument& result) {
    return result.alias_info() != nullptr && !result.alias_info()->isWrite();
  });
}

/// A list argument of `count` numbers; a single one stands for all.
inline std::vector<int64_t> numbers(const c10::IValue& argument, std::size_t count) {
  auto list = argument.toIntVector();
  if (list.size() == 1) {
    list.resize(count, list[0]);
  }
  return list;
}

/// The dispatch key that intercepts operators while it is switched on for a thread. It lies above
/// all others, `graft_key` included. PyTorch documents it for tests of modes and registers
/// nothing on it; this constant is the only place that chooses it.
inline constexpr c10::DispatchKey capture_key = c10::DispatchKey::TESTING_ONLY_GenericMode;

/// The observer of this thread, or null.
///
/// Exported, like the other functions that hold an observer, a switch or a registration of the
/// process: shared libraries that hide their symbols, two Python extensions say, then have one
/// together. LibTorch refuses a second registration on a dispatch key.
C10_EXPORT inline OperatorObserver*& operator_observer() {
  static thread_local OperatorObserver* observer = nullptr;
  return observer;
}

/// The kernel of every operator on the capture key.
inline void observe_operator(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                             torch::jit::Stack* stack) {
  const auto below = keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, capture_key);
  auto* observer = operator_observer();
  if (observer == nullptr) {
    op.redispatchBoxed(below, stack);
    return;
  }
  const auto arguments = torch::jit::last(*stack, op.schema().arguments().size());
  const std::vector<c10::IValue> inputs(arguments.begin(), arguments.end());
  {
    const c10::impl::ExcludeDispatchKeyGuard guard(capture_key);
    if (auto results = observer->replacement(op, inputs)) {
      torch::jit::drop(*stack, inputs.size());
      stack->insert(stack->end(), std::make_move_iterator(results->begin()),
                    std::make_move_iterator(results->end()));
      return;
    }
  }
  if (observer->looks_inside(op, inputs)) {
    op.redispatchBoxed(below, stack);
    return;
  }
  observer->settle(inputs);
  const auto start = std::chrono::steady_clock::now();
  {
    const c10::impl::ExcludeDispatchKeyGuard guard(capture_key);
    op.redispatchBoxed(below, stack);
  }
  observer->settle(inputs);
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  const auto results = torch::jit::last(*stack, op.schema().returns().size());
  const std::vector<c10::IValue> outputs(results.begin(), results.end());
  const c10::impl::ExcludeDispatchKeyGuard guard(capture_key);
  observer->ran({op, inputs, outputs, elapsed.count()});
}

/// Registers the kernel, once a process.
C10_EXPORT inline void register_capture_kernel() {
  static const auto* library = [] {
    auto made = std::make_unique<torch::Library>(torch::Library::IMPL, "_", capture_key, __FILE__,
                                                 __LINE__);
    made->fallback(torch::CppFunction::makeFromBoxedFunction<&observe_operator>());
    // Never unregistered: threads may still be dispatching when static objects go.
    return made.release();
  }();
  static_cast<void>(library);
}

}  // namespace detail

/// While it lives, `observer` is told every operator that the making thread runs. Captures nest;
/// the innermost one's observer is told.
class OperatorCapture {
 public:
  /// Starts to observe.
  explicit OperatorCapture(OperatorObserver& observer) : previous_(detail::operator_observer()) {
    detail::register_capture_kernel();
    detail::operator_observer() = &observer;
    guard_.emplace(detail::capture_key);
  }
  /// Ends it.
  ~OperatorCapture() {
    guard_.reset();
    detail::operator_observer() = previous_;
  }
  OperatorCapture(const OperatorCapture&) = delete;
  OperatorCapture& operator=(const OperatorCapture&) = delete;
  OperatorCapture(OperatorCapture&&) = delete;
  OperatorCapture& operator=(OperatorCapture&&) = delete;

 private:
  OperatorObserver* previous_;
  std::optional<c10::impl::IncludeDispatchKeyGuard> guard_;
};

}  // namespace bsconv
