# SPDX-License-Identifier: BSD-3-Clause-Clear
#
# The components: targets for headers that need more than LibTorch.
#
#   bsconv::json      nlohmann/json: weights/, train/, profile/json.hpp
#   bsconv::images    libpng and libjpeg-turbo: data/image_file.hpp, data/prepared_image.hpp,
#                     data/file_loader.hpp
#   bsconv::archives  libarchive: data/archive.hpp, data/cifar_archive.hpp
#   bsconv::dogs      libarchive, matio, zlib and libcrypto: data/stanford_dogs.hpp,
#                     data/matlab.hpp
#   bsconv::toml      toml++, and json: train/settings_file.hpp
#   bsconv::plot      cairo: plot/
#   bsconv::onnx      protozero: export/
#   bsconv::pretrained   json and libcrypto: pretrained/, util/file_digest.hpp
#   bsconv::distributed  json, and Gloo's headers: distributed/
#   bsconv::nccl      distributed and cuda, and NCCL's header: distributed/nccl.hpp
#   bsconv::cuda      LibTorch linked with its CUDA libraries, the CUDA toolkit's headers, runtime and
#                     NVRTC: cuda/
#   bsconv::kernels   nothing: the code of kernels/, compiled once instead of in each source file

set(BSCONV_COMPONENTS json images archives dogs toml plot onnx pretrained distributed kernels)

if(BSCONV_LINK_CUDA AND BSCONV_LIBTORCH_CUDA)
  list(APPEND BSCONV_COMPONENTS cuda nccl)
endif()

# Defines bsconv::<component>; `error` says what is missing, or is empty.
function(bsconv_add_component component error)
  set(${error} "" PARENT_SCOPE)
  if(TARGET bsconv::${component})
    return()
  endif()
  set(include_directories "")
  set(definitions "")
  if(component STREQUAL "json")
    find_package(nlohmann_json 3.9 QUIET)
    if(NOT nlohmann_json_FOUND)
      set(${error} "bsconv component 'json' needs nlohmann/json: apt-get install nlohmann-json3-dev"
          PARENT_SCOPE)
      return()
    endif()
    set(libraries nlohmann_json::nlohmann_json)
  elseif(component STREQUAL "images")
    find_package(PNG QUIET)
    find_package(JPEG QUIET)
    if(NOT PNG_FOUND OR NOT JPEG_FOUND)
      set(${error}
          "bsconv component 'images' needs libpng and libjpeg: apt-get install libpng-dev libjpeg62-turbo-dev"
          PARENT_SCOPE)
      return()
    endif()
    set(libraries PNG::PNG JPEG::JPEG)
  elseif(component STREQUAL "archives")
    find_package(LibArchive QUIET)
    if(NOT LibArchive_FOUND)
      set(${error} "bsconv component 'archives' needs libarchive: apt-get install libarchive-dev"
          PARENT_SCOPE)
      return()
    endif()
    set(libraries LibArchive::LibArchive)
  elseif(component STREQUAL "dogs")
    find_package(LibArchive QUIET)
    find_package(OpenSSL QUIET COMPONENTS Crypto)
    find_package(ZLIB QUIET)
    # matio comes without a CMake package.
    find_path(BSCONV_MATIO_INCLUDE_DIR matio.h)
    find_library(BSCONV_MATIO_LIBRARY matio)
    mark_as_advanced(BSCONV_MATIO_INCLUDE_DIR BSCONV_MATIO_LIBRARY)
    if(NOT LibArchive_FOUND OR NOT OPENSSL_CRYPTO_LIBRARY OR NOT ZLIB_FOUND
       OR NOT BSCONV_MATIO_INCLUDE_DIR OR NOT BSCONV_MATIO_LIBRARY)
      set(${error}
          "bsconv component 'dogs' needs libarchive, matio, zlib and OpenSSL: apt-get install libarchive-dev libmatio-dev zlib1g-dev libssl-dev"
          PARENT_SCOPE)
      return()
    endif()
    add_library(bsconv_matio INTERFACE IMPORTED GLOBAL)
    target_include_directories(bsconv_matio SYSTEM INTERFACE "${BSCONV_MATIO_INCLUDE_DIR}")
    target_link_libraries(bsconv_matio INTERFACE "${BSCONV_MATIO_LIBRARY}")
    set(libraries LibArchive::LibArchive bsconv_matio ZLIB::ZLIB OpenSSL::Crypto)
  elseif(component STREQUAL "toml")
    find_package(tomlplusplus 3 QUIET)
    bsconv_add_component(json json_error)
    if(NOT tomlplusplus_FOUND OR json_error)
      set(${error}
          "bsconv component 'toml' needs toml++ and nlohmann/json: apt-get install libtomlplusplus-dev nlohmann-json3-dev"
          PARENT_SCOPE)
      return()
    endif()
    set(libraries bsconv::json tomlplusplus::tomlplusplus)
  elseif(component STREQUAL "plot")
    find_path(BSCONV_CAIRO_INCLUDE_DIR cairo.h PATH_SUFFIXES cairo)
    find_library(BSCONV_CAIRO_LIBRARY cairo)
    mark_as_advanced(BSCONV_CAIRO_INCLUDE_DIR BSCONV_CAIRO_LIBRARY)
    if(NOT BSCONV_CAIRO_INCLUDE_DIR OR NOT BSCONV_CAIRO_LIBRARY)
      set(${error} "bsconv component 'plot' needs cairo: apt-get install libcairo2-dev"
          PARENT_SCOPE)
      return()
    endif()
    if(NOT TARGET bsconv_cairo)
      add_library(bsconv_cairo INTERFACE IMPORTED GLOBAL)
      target_include_directories(bsconv_cairo SYSTEM INTERFACE "${BSCONV_CAIRO_INCLUDE_DIR}")
      target_link_libraries(bsconv_cairo INTERFACE "${BSCONV_CAIRO_LIBRARY}")
    endif()
    set(libraries bsconv_cairo)
  elseif(component STREQUAL "onnx")
    # Protozero is headers alone and installs no package file.
    find_path(BSCONV_PROTOZERO_INCLUDE_DIR protozero/pbf_writer.hpp)
    mark_as_advanced(BSCONV_PROTOZERO_INCLUDE_DIR)
    if(NOT BSCONV_PROTOZERO_INCLUDE_DIR)
      set(${error} "bsconv component 'onnx' needs protozero: apt-get install libprotozero-dev"
          PARENT_SCOPE)
      return()
    endif()
    set(libraries "")
    set(include_directories "${BSCONV_PROTOZERO_INCLUDE_DIR}")
  elseif(component STREQUAL "pretrained")
    find_package(OpenSSL QUIET COMPONENTS Crypto)
    bsconv_add_component(json json_error)
    if(NOT OPENSSL_CRYPTO_LIBRARY OR json_error)
      set(${error}
          "bsconv component 'pretrained' needs OpenSSL and nlohmann/json: apt-get install libssl-dev nlohmann-json3-dev"
          PARENT_SCOPE)
      return()
    endif()
    set(libraries bsconv::json OpenSSL::Crypto)
    # In the sources, and where they are installed.
    foreach(directory ../models ../../bsconv/models)
      get_filename_component(directory "${directory}" ABSOLUTE BASE_DIR
                             "${CMAKE_CURRENT_FUNCTION_LIST_DIR}")
      if(IS_DIRECTORY "${directory}")
        set(definitions "BSCONV_MODELS_DIR=\"${directory}\"")
        break()
      endif()
    endforeach()
  elseif(component STREQUAL "distributed")
    # LibTorch has Gloo inside, without its headers.
    find_path(BSCONV_GLOO_INCLUDE_DIR gloo/algorithm.h)
    mark_as_advanced(BSCONV_GLOO_INCLUDE_DIR)
    bsconv_add_component(json json_error)
    if(NOT BSCONV_GLOO_INCLUDE_DIR OR json_error)
      set(${error}
          "bsconv component 'distributed' needs Gloo's headers and nlohmann/json: apt-get install libgloo-dev nlohmann-json3-dev"
          PARENT_SCOPE)
      return()
    endif()
    set(libraries bsconv::json)
    set(include_directories "${BSCONV_GLOO_INCLUDE_DIR}")
  elseif(component STREQUAL "cuda")
    find_path(BSCONV_CUDA_INCLUDE_DIR cuda_runtime_api.h
              HINTS "$ENV{CUDA_HOME}/include" /usr/local/cuda/include)
    # The wheel's own come first.
    file(GLOB cuda_libraries "${BSCONV_LIBTORCH_DIR}/../nvidia/*/lib")
    find_library(BSCONV_NVRTC_LIBRARY NAMES libnvrtc.so.13 libnvrtc.so.12 nvrtc NAMES_PER_DIR
                 HINTS ${cuda_libraries} /usr/local/cuda/lib64)
    find_library(BSCONV_CUDART_LIBRARY NAMES libcudart.so.13 libcudart.so.12 cudart NAMES_PER_DIR
                 HINTS ${cuda_libraries} /usr/local/cuda/lib64)
    mark_as_advanced(BSCONV_CUDA_INCLUDE_DIR BSCONV_NVRTC_LIBRARY BSCONV_CUDART_LIBRARY)
    if(NOT BSCONV_LINK_CUDA OR NOT BSCONV_LIBTORCH_CUDA OR NOT BSCONV_CUDA_INCLUDE_DIR
       OR NOT BSCONV_NVRTC_LIBRARY OR NOT BSCONV_CUDART_LIBRARY)
      set(${error}
          "bsconv component 'cuda' needs the headers of a CUDA toolkit (found: ${BSCONV_CUDA_INCLUDE_DIR}), its runtime (${BSCONV_CUDART_LIBRARY}) and NVRTC (${BSCONV_NVRTC_LIBRARY}), and LibTorch with CUDA, linked: -DBSCONV_LINK_CUDA=ON, or -DBSCONV_TORCH_CUDA=ON to install it"
          PARENT_SCOPE)
      return()
    endif()
    add_library(bsconv_cuda_toolkit INTERFACE IMPORTED GLOBAL)
    target_include_directories(bsconv_cuda_toolkit SYSTEM INTERFACE "${BSCONV_CUDA_INCLUDE_DIR}")
    target_link_libraries(bsconv_cuda_toolkit INTERFACE "${BSCONV_NVRTC_LIBRARY}"
                                                        "${BSCONV_CUDART_LIBRARY}")
    set(libraries bsconv_cuda_toolkit)
    # Where a program has parts for CUDA alone.
    set(definitions BSCONV_HAS_CUDA)
  elseif(component STREQUAL "nccl")
    # The wheel's own comes first; its library is linked by LibTorch.
    find_path(BSCONV_NCCL_INCLUDE_DIR nccl.h
              HINTS "${BSCONV_LIBTORCH_DIR}/../nvidia/nccl/include" /usr/local/cuda/include)
    mark_as_advanced(BSCONV_NCCL_INCLUDE_DIR)
    bsconv_add_component(distributed distributed_error)
    bsconv_add_component(cuda cuda_error)
    if(NOT BSCONV_NCCL_INCLUDE_DIR OR distributed_error OR cuda_error)
      set(${error}
          "bsconv component 'nccl' needs nccl.h (found: ${BSCONV_NCCL_INCLUDE_DIR}) and the components distributed and cuda. ${distributed_error} ${cuda_error}"
          PARENT_SCOPE)
      return()
    endif()
    set(libraries bsconv::distributed bsconv::cuda)
    set(include_directories "${BSCONV_NCCL_INCLUDE_DIR}")
    set(definitions BSCONV_HAS_NCCL)
  elseif(component STREQUAL "kernels")
    if(NOT TARGET bsconv_kernels)
      add_library(bsconv_kernels STATIC EXCLUDE_FROM_ALL
                  "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/bsconv_kernels.cpp")
      target_link_libraries(bsconv_kernels PRIVATE bsconv::bsconv)
      target_compile_definitions(bsconv_kernels PUBLIC BSCONV_COMPILED_KERNELS)
      set_target_properties(bsconv_kernels PROPERTIES POSITION_INDEPENDENT_CODE ON)
    endif()
    set(libraries bsconv_kernels)
  else()
    list(JOIN BSCONV_COMPONENTS ", " known)
    set(${error} "bsconv has no component '${component}'; it has ${known}" PARENT_SCOPE)
    return()
  endif()
  add_library(bsconv_component_${component} INTERFACE IMPORTED GLOBAL)
  target_link_libraries(bsconv_component_${component} INTERFACE bsconv::bsconv ${libraries})
  target_include_directories(bsconv_component_${component} INTERFACE ${include_directories})
  target_compile_definitions(bsconv_component_${component} INTERFACE ${definitions})
  add_library(bsconv::${component} ALIAS bsconv_component_${component})
endfunction()
