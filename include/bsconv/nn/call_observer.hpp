// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <c10/macros/Export.h>
#include <torch/nn/module.h>

namespace bsconv {

/// Is told which child module a `Composite` enters and leaves.
///
/// LibTorch has no module hooks in C++; the modules of this library report their calls here, so
/// that a profiler can tell whose operators it sees.
class CallObserver {
 public:
  CallObserver() = default;
  CallObserver(const CallObserver&) = delete;
  CallObserver& operator=(const CallObserver&) = delete;
  CallObserver(CallObserver&&) = delete;
  CallObserver& operator=(CallObserver&&) = delete;
  virtual ~CallObserver() = default;

  /// `module` is about to run.
  virtual void enter(const torch::nn::Module& module) = 0;
  /// `module` has run, or has thrown.
  virtual void leave(const torch::nn::Module& module) = 0;

  /// The observer of this thread, or null; a `CallObserverGuard` sets it.
  static CallObserver* current() { return slot(); }

 private:
  friend class CallObserverGuard;

  C10_EXPORT static CallObserver*& slot() {
    static thread_local CallObserver* observer = nullptr;
    return observer;
  }
};

/// Makes an observer the thread's while it lives; afterwards it is the one from before again.
class CallObserverGuard {
 public:
  /// From now on `observer` is told, which outlives this object.
  explicit CallObserverGuard(CallObserver& observer) : previous_(CallObserver::current()) {
    CallObserver::slot() = &observer;
  }
  ~CallObserverGuard() { CallObserver::slot() = previous_; }
  CallObserverGuard(const CallObserverGuard&) = delete;
  CallObserverGuard& operator=(const CallObserverGuard&) = delete;
  CallObserverGuard(CallObserverGuard&&) = delete;
  CallObserverGuard& operator=(CallObserverGuard&&) = delete;

 private:
  CallObserver* previous_;
};

namespace detail {

/// Reports one call to the thread's observer, if there is one.
class CallScope {
 public:
  explicit CallScope(const torch::nn::Module& module)
      : observer_(CallObserver::current()), module_(module) {
    if (observer_ != nullptr) {
      observer_->enter(module_);
    }
  }
  ~CallScope() {
    if (observer_ != nullptr) {
      observer_->leave(module_);
    }
  }
  CallScope(const CallScope&) = delete;
  CallScope& operator=(const CallScope&) = delete;
  CallScope(CallScope&&) = delete;
  CallScope& operator=(CallScope&&) = delete;

 private:
  CallObserver* observer_;
  const torch::nn::Module& module_;
};

}  // namespace detail

}  // namespace bsconv
