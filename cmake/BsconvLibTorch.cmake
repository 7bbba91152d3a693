# SPDX-License-Identifier: BSD-3-Clause-Clear
#
# Finds LibTorch and defines the imported target bsconv::libtorch.
#
# LibTorch's own find_package(Torch) needs a CUDA toolkit of the right version wherever the wheel
# was built with CUDA, so the target is made from the found directory instead.
#
# In:  Torch_ROOT, Torch_DIR, CMAKE_PREFIX_PATH, BSCONV_FETCH_LIBTORCH, BSCONV_TORCH_VERSION,
#      BSCONV_TORCH_CUDA, BSCONV_LINK_CUDA, BSCONV_CACHE_DIR
# Out: bsconv::libtorch, BSCONV_LIBTORCH_DIR, BSCONV_LIBTORCH_VERSION, BSCONV_LIBTORCH_CUDA,
#      BSCONV_LIBTORCH_ERROR, BSCONV_LINK_CUDA

set(BSCONV_TORCH_MINIMUM 2.11.0)
# An installed package is used without the options of our own build.
if(NOT BSCONV_TORCH_VERSION)
  set(BSCONV_TORCH_VERSION ${BSCONV_TORCH_MINIMUM})
endif()
if(NOT BSCONV_CACHE_DIR)
  set(BSCONV_CACHE_DIR "${CMAKE_BINARY_DIR}/libtorch")
endif()

# The directory that holds include/torch and lib, given any path near it: its own, the one above it,
# that of TorchConfig.cmake, or PyTorch's cmake_prefix_path. One that is too old is told in `why`.
function(_bsconv_libtorch_at path result why)
  set(${result} "" PARENT_SCOPE)
  set(${why} "" PARENT_SCOPE)
  foreach(candidate "${path}" "${path}/torch" "${path}/libtorch" "${path}/../../.." "${path}/../..")
    if(EXISTS "${candidate}/include/torch/csrc/api/include/torch/torch.h"
       AND EXISTS "${candidate}/lib/libtorch_cpu.so")
      get_filename_component(candidate "${candidate}" REALPATH)
      _bsconv_libtorch_version("${candidate}" version)
      if(version AND version VERSION_LESS BSCONV_TORCH_MINIMUM)
        set(${why} " is LibTorch ${version}, older than ${BSCONV_TORCH_MINIMUM}"
            PARENT_SCOPE)
        return()
      endif()
      set(${result} "${candidate}" PARENT_SCOPE)
      return()
    endif()
  endforeach()
endfunction()

# The torch directory of a Python, without importing torch.
function(_bsconv_libtorch_of_python python result)
  set(${result} "" PARENT_SCOPE)
  if(NOT python)
    return()
  endif()
  execute_process(
    COMMAND "${python}" -c
            "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s and s.submodule_search_locations else '')"
    OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE status)
  if(status EQUAL 0 AND found)
    set(${result} "${found}" PARENT_SCOPE)
  endif()
endfunction()

# The version, from the headers, or from the file that wheels and archives come with.
function(_bsconv_libtorch_version directory result)
  set(version "")
  foreach(part MAJOR MINOR PATCH)
    foreach(header headeronly/version.h csrc/api/include/torch/version.h)
      if(EXISTS "${directory}/include/torch/${header}")
        file(STRINGS "${directory}/include/torch/${header}" line
             REGEX "define TORCH_VERSION_${part} [0-9]+")
        if(line MATCHES "${part} ([0-9]+)")
          list(APPEND version "${CMAKE_MATCH_1}")
          break()
        endif()
      endif()
    endforeach()
  endforeach()
  list(JOIN version "." version)
  set(${result} "${version}" PARENT_SCOPE)
endfunction()

# Looks in every place in turn; what was tried goes into BSCONV_LIBTORCH_ERROR.
function(_bsconv_search_libtorch)
  set(tried "")
  set(directory "")
  foreach(name Torch_ROOT Torch_DIR CMAKE_PREFIX_PATH)
    set(paths ${${name}})
    if(DEFINED ENV{${name}})
      string(REPLACE ":" ";" from_environment "$ENV{${name}}")
      list(APPEND paths ${from_environment})
    endif()
    foreach(path IN LISTS paths)
      _bsconv_libtorch_at("${path}" directory why)
      if(directory)
        break()
      endif()
      list(APPEND tried "${name}: ${path}${why}")
    endforeach()
    if(directory)
      break()
    elseif(NOT paths)
      list(APPEND tried "${name}: not set")
    endif()
  endforeach()
  if(NOT directory)
    set(pythons "")
    if(Python3_EXECUTABLE)
      list(APPEND pythons "${Python3_EXECUTABLE}")
    endif()
    if(DEFINED ENV{VIRTUAL_ENV})
      list(APPEND pythons "$ENV{VIRTUAL_ENV}/bin/python3")
    endif()
    find_program(_bsconv_python NAMES python3 python NO_CACHE)
    if(_bsconv_python)
      list(APPEND pythons "${_bsconv_python}")
    endif()
    list(REMOVE_DUPLICATES pythons)
    foreach(python IN LISTS pythons)
      _bsconv_libtorch_of_python("${python}" path)
      set(why " without torch")
      if(path)
        _bsconv_libtorch_at("${path}" directory why)
      endif()
      if(directory)
        break()
      endif()
      list(APPEND tried "Python: ${python}${why}")
    endforeach()
  endif()
  if(NOT directory)
    foreach(path "${CMAKE_SOURCE_DIR}/libtorch" "${CMAKE_BINARY_DIR}/libtorch" "$ENV{HOME}/libtorch"
                 /opt/libtorch /usr/local/libtorch)
      _bsconv_libtorch_at("${path}" directory why)
      if(directory)
        break()
      endif()
      list(APPEND tried "unpacked libtorch: ${path}${why}")
    endforeach()
  endif()
  set(BSCONV_LIBTORCH_DIR "${directory}" PARENT_SCOPE)
  list(JOIN tried "\n    " tried)
  set(BSCONV_LIBTORCH_ERROR "  Looked for include/torch/csrc/api/include/torch/torch.h and lib/libtorch_cpu.so in\n    ${tried}" PARENT_SCOPE)
endfunction()

# Installs the pinned wheel into the cache and looks there.
function(_bsconv_fetch_libtorch)
  find_program(_bsconv_python NAMES python3 python NO_CACHE)
  if(NOT _bsconv_python)
    set(BSCONV_LIBTORCH_ERROR "${BSCONV_LIBTORCH_ERROR}\n  To install it, Python 3 is needed: apt-get install python3 python3-venv"
        PARENT_SCOPE)
    return()
  endif()
  set(arguments --version "${BSCONV_TORCH_VERSION}" --cache "${BSCONV_CACHE_DIR}")
  if(BSCONV_TORCH_CUDA)
    list(APPEND arguments --cuda)
  endif()
  message(STATUS "Installing LibTorch ${BSCONV_TORCH_VERSION} into ${BSCONV_CACHE_DIR}")
  execute_process(
    COMMAND "${_bsconv_python}" "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/fetch_libtorch.py" ${arguments}
    OUTPUT_VARIABLE output ERROR_VARIABLE errors RESULT_VARIABLE status
    OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT status EQUAL 0)
    set(BSCONV_LIBTORCH_ERROR "${BSCONV_LIBTORCH_ERROR}\n  Installing it failed:\n${errors}"
        PARENT_SCOPE)
    return()
  endif()
  set(BSCONV_LIBTORCH_DIR "${output}" PARENT_SCOPE)
endfunction()

# What the answer depends on; another one makes the search begin anew. The environment does not count:
# a build that configures itself again may have another.
set(_bsconv_question
    "${Torch_ROOT}|${Torch_DIR}|${CMAKE_PREFIX_PATH}|${BSCONV_TORCH_VERSION}|${BSCONV_TORCH_CUDA}")

macro(_bsconv_find_libtorch)
  if(NOT BSCONV_LIBTORCH_DIR OR NOT EXISTS "${BSCONV_LIBTORCH_DIR}/lib/libtorch_cpu.so"
     OR (DEFINED BSCONV_LIBTORCH_QUESTION
         AND NOT BSCONV_LIBTORCH_QUESTION STREQUAL _bsconv_question))
    _bsconv_search_libtorch()
    if(NOT BSCONV_LIBTORCH_DIR AND BSCONV_FETCH_LIBTORCH)
      _bsconv_fetch_libtorch()
    endif()
    if(BSCONV_LIBTORCH_DIR)
      set(BSCONV_LIBTORCH_DIR "${BSCONV_LIBTORCH_DIR}" CACHE PATH "The LibTorch in use" FORCE)
      set(BSCONV_LIBTORCH_QUESTION "${_bsconv_question}" CACHE INTERNAL "What was searched for")
    endif()
  endif()
  if(BSCONV_LIBTORCH_DIR)
    set(BSCONV_LIBTORCH_ERROR "")
    _bsconv_libtorch_version("${BSCONV_LIBTORCH_DIR}" BSCONV_LIBTORCH_VERSION)
    if(BSCONV_LIBTORCH_VERSION AND BSCONV_LIBTORCH_VERSION VERSION_LESS BSCONV_TORCH_MINIMUM)
      # One that was given by hand, or has been exchanged.
      set(BSCONV_LIBTORCH_ERROR
          "  ${BSCONV_LIBTORCH_DIR} is LibTorch ${BSCONV_LIBTORCH_VERSION}; ${BSCONV_TORCH_MINIMUM} or newer is needed")
      unset(BSCONV_LIBTORCH_DIR CACHE)
    endif()
  else()
    string(APPEND BSCONV_LIBTORCH_ERROR
           "\n  Type one of\n    cmake -DTorch_ROOT=/path/to/libtorch …\n    cmake -DBSCONV_FETCH_LIBTORCH=ON …\n    pip install torch==2.11.0")
  endif()
endmacro()

if(NOT TARGET bsconv::libtorch)
  _bsconv_find_libtorch()
  if(NOT BSCONV_LIBTORCH_ERROR)
    find_package(Threads REQUIRED)
    add_library(bsconv_libtorch INTERFACE IMPORTED GLOBAL)
    add_library(bsconv::libtorch ALIAS bsconv_libtorch)
    set(_bsconv_libs "${BSCONV_LIBTORCH_DIR}/lib")
    target_include_directories(
      bsconv_libtorch SYSTEM
      INTERFACE "${BSCONV_LIBTORCH_DIR}/include"
                "${BSCONV_LIBTORCH_DIR}/include/torch/csrc/api/include")
    target_link_libraries(bsconv_libtorch INTERFACE "${_bsconv_libs}/libtorch_cpu.so"
                                                    "${_bsconv_libs}/libc10.so" Threads::Threads)
    # The CUDA parts register themselves when loaded; nothing refers to them, so the linker would
    # drop them. A CPU-only installation of a CUDA wheel has the files but not what they need.
    file(GLOB _bsconv_cublas "${BSCONV_LIBTORCH_DIR}/../nvidia/*/lib/libcublas.so.*"
         "${_bsconv_libs}/libcublas*.so*" /usr/local/cuda/lib64/libcublas.so.*)
    if(EXISTS "${_bsconv_libs}/libtorch_cuda.so" AND _bsconv_cublas)
      set(BSCONV_LIBTORCH_CUDA ON)
    endif()
    if(NOT DEFINED BSCONV_LINK_CUDA)
      set(BSCONV_LINK_CUDA "${BSCONV_TORCH_CUDA}")
    endif()
    if(BSCONV_LINK_CUDA AND BSCONV_LIBTORCH_CUDA)
      target_link_options(
        bsconv_libtorch INTERFACE
        "LINKER:--push-state,--no-as-needed,${_bsconv_libs}/libtorch_cuda.so,${_bsconv_libs}/libc10_cuda.so,--pop-state")
    endif()
    # Newer linkers look up what shared libraries need only to warn about it.
    target_link_options(bsconv_libtorch INTERFACE
                        "LINKER:-rpath-link,${_bsconv_libs},--allow-shlib-undefined")
    foreach(variable IN ITEMS LIBTORCH_VERSION LIBTORCH_CUDA LINK_CUDA)
      set_property(TARGET bsconv_libtorch PROPERTY INTERFACE_BSCONV_${variable}
                                                   "${BSCONV_${variable}}")
    endforeach()
    message(STATUS "LibTorch ${BSCONV_LIBTORCH_VERSION}: ${BSCONV_LIBTORCH_DIR}")
  endif()
endif()
# The target is there in all directories of a project, variables in one.
if(TARGET bsconv_libtorch)
  foreach(variable IN ITEMS LIBTORCH_VERSION LIBTORCH_CUDA LINK_CUDA)
    get_property(BSCONV_${variable} TARGET bsconv_libtorch PROPERTY INTERFACE_BSCONV_${variable})
  endforeach()
endif()
