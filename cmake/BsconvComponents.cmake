# SPDX-License-Identifier: BSD-3-Clause-Clear
#
# The components: targets for headers that need more than LibTorch.
#
#   bsconv::json    nlohmann/json: weights/, train/, profile/json.hpp
#   bsconv::images  libpng and libjpeg: data/image_file.hpp
#   bsconv::onnx    protozero: export/

set(BSCONV_COMPONENTS json images onnx)

# Defines bsconv::<component>; `error` says what is missing, or is empty.
function(bsconv_add_component component error)
  set(${error} "" PARENT_SCOPE)
  if(TARGET bsconv::${component})
    return()
  endif()
  set(include_directories "")
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
  else()
    list(JOIN BSCONV_COMPONENTS ", " known)
    set(${error} "bsconv has no component '${component}'; it has ${known}" PARENT_SCOPE)
    return()
  endif()
  add_library(bsconv_component_${component} INTERFACE IMPORTED GLOBAL)
  target_link_libraries(bsconv_component_${component} INTERFACE bsconv::bsconv ${libraries})
  target_include_directories(bsconv_component_${component} INTERFACE ${include_directories})
  add_library(bsconv::${component} ALIAS bsconv_component_${component})
endfunction()
