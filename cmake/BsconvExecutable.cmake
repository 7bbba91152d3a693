# SPDX-License-Identifier: BSD-3-Clause-Clear
#
# How the project's own executables are built; nothing here reaches a consumer.

option(BSCONV_WARNINGS_AS_ERRORS "Whether warnings in our own code are errors" ON)
option(BSCONV_PRECOMPILE "Whether our own executables share a precompiled <torch/torch.h>" ON)

find_program(BSCONV_CCACHE ccache)
mark_as_advanced(BSCONV_CCACHE)

# Warnings, ccache and the shared precompiled header for `target`.
function(bsconv_own_executable target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic)
  if(BSCONV_WARNINGS_AS_ERRORS)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  if(BSCONV_CCACHE)
    set_target_properties(
      ${target} PROPERTIES CXX_COMPILER_LAUNCHER
      "${CMAKE_COMMAND};-E;env;CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime;${BSCONV_CCACHE}")
  endif()
  if(NOT BSCONV_PRECOMPILE)
    return()
  endif()
  if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    target_compile_options(${target} PRIVATE "SHELL:-Xclang -fno-pch-timestamp")
  else()
    target_compile_options(${target} PRIVATE -fpch-preprocess)
  endif()
  if(NOT TARGET bsconv_precompiled)
    set(source "${CMAKE_BINARY_DIR}/bsconv_precompiled.cpp")
    if(NOT EXISTS "${source}")
      file(WRITE "${source}" "")
    endif()
    add_library(bsconv_precompiled OBJECT "${source}")
    target_link_libraries(bsconv_precompiled PRIVATE bsconv::bsconv)
    target_precompile_headers(bsconv_precompiled PRIVATE <torch/torch.h>)
    get_target_property(options ${target} COMPILE_OPTIONS)
    set_target_properties(bsconv_precompiled PROPERTIES COMPILE_OPTIONS "${options}")
    get_target_property(launcher ${target} CXX_COMPILER_LAUNCHER)
    if(launcher)
      set_target_properties(bsconv_precompiled PROPERTIES CXX_COMPILER_LAUNCHER "${launcher}")
    endif()
  endif()
  target_precompile_headers(${target} REUSE_FROM bsconv_precompiled)
endfunction()
