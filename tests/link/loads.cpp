// SPDX-License-Identifier: BSD-3-Clause-Clear
// Loads the shared libraries that it is given, none of which sees the others' symbols, and calls
// `run` of each twice, in turn.
#include <dlfcn.h>

#include <iostream>
#include <vector>

int main(int count, char** arguments) {
  using Run = int (*)();
  std::vector<Run> runs;
  for (int i = 1; i < count; ++i) {
    void* library = ::dlopen(arguments[i], RTLD_NOW | RTLD_LOCAL);
    void* run = library == nullptr ? nullptr : ::dlsym(library, "run");
    if (run == nullptr) {
      std::cerr << ::dlerror() << '\n';
      return 1;
    }
    runs.push_back(reinterpret_cast<Run>(run));
  }
  for (int time = 0; time < 2; ++time) {
    for (const Run run : runs) {
      if (run() != 0) {
        return 1;
      }
    }
  }
  return runs.size() == 2 ? 0 : 1;
}
