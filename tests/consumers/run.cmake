# SPDX-License-Identifier: BSD-3-Clause-Clear
#
# Configures, builds and runs a consumer project, as a user of the library would.

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "failed (${status}): ${ARGN}")
  endif()
endfunction()

file(REMOVE_RECURSE "${WORK}")
file(MAKE_DIRECTORY "${WORK}")
set(arguments -G "${GENERATOR}" "-DCMAKE_CXX_COMPILER=${COMPILER}")
if(WAY STREQUAL "find_package")
  run("${CMAKE_COMMAND}" --install "${BUILD}" --prefix "${WORK}/prefix")
  if(EXISTS "${WORK}/prefix/bin/bsconv")
    run("${WORK}/prefix/bin/bsconv" models --pretrained)
  endif()
  # LibTorch is found where PyTorch says: torch.utils.cmake_prefix_path.
  list(APPEND arguments "-DCMAKE_PREFIX_PATH=${WORK}/prefix")
  set(ENV{CMAKE_PREFIX_PATH} "${Torch_ROOT}/share/cmake")
elseif(WAY STREQUAL "add_subdirectory")
  list(APPEND arguments "-DTorch_ROOT=${Torch_ROOT}" "-DBSCONV_SOURCE=${SOURCE}")
else()
  list(APPEND arguments "-DTorch_ROOT=${Torch_ROOT}")
  run("${CMAKE_COMMAND}" -E chdir "${SOURCE}" "${CMAKE_COMMAND}" -E tar czf
      "${WORK}/bsconv.tar.gz" CMakeLists.txt cmake include models LICENSE)
  list(APPEND arguments "-DBSCONV_ARCHIVE=${WORK}/bsconv.tar.gz")
endif()
run("${CMAKE_COMMAND}" -S "${CMAKE_CURRENT_LIST_DIR}/${WAY}" -B "${WORK}/build" ${arguments})
run("${CMAKE_COMMAND}" --build "${WORK}/build")
run("${WORK}/build/consumer")
