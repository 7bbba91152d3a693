# SPDX-License-Identifier: BSD-3-Clause-Clear
#
# Without LibTorch, configuring ends with what was looked for, where, and what to type.

set(old "${WORK}/old")
file(REMOVE_RECURSE "${WORK}")
# One that is too old is no better than none.
file(WRITE "${old}/include/torch/csrc/api/include/torch/torch.h" "")
file(WRITE "${old}/lib/libtorch_cpu.so" "")
file(WRITE "${old}/include/torch/headeronly/version.h"
     "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 5\n#define TORCH_VERSION_PATCH 1\n")
execute_process(
  COMMAND "${CMAKE_COMMAND}" -E env --unset=Torch_ROOT --unset=Torch_DIR --unset=CMAKE_PREFIX_PATH
          --unset=VIRTUAL_ENV HOME=/nonexistent PATH=/usr/bin:/bin "${CMAKE_COMMAND}" -S "${SOURCE}" -B
          "${WORK}/build" -G "${GENERATOR}" "-DCMAKE_MAKE_PROGRAM=${MAKE_PROGRAM}" -DBSCONV_FETCH_LIBTORCH=OFF "-DTorch_ROOT=/nonexistent/torch;${old}"
          -DPython3_EXECUTABLE=/bin/false
  RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE errors)
if(status EQUAL 0)
  if(output MATCHES "LibTorch [0-9.]+: /")
    message("skipped: this machine's Python has torch, so LibTorch was found")
    return()
  endif()
  message(FATAL_ERROR "configuring without LibTorch succeeded:\n${output}")
endif()
foreach(part "bsconv needs LibTorch" "Torch_ROOT: /nonexistent/torch"
             "/old is LibTorch 2.5.1, older than 2.11.0" "lib/libtorch_cpu.so"
             "BSCONV_FETCH_LIBTORCH=ON")
  string(FIND "${errors}" "${part}" at)
  if(at EQUAL -1)
    message(FATAL_ERROR "the message lacks '${part}':\n${errors}")
  endif()
endforeach()
