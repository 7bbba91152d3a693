# SPDX-License-Identifier: BSD-3-Clause-Clear
#
# The target 'docs': the API reference; an undocumented public name fails it.

find_package(Doxygen QUIET)
if(NOT DOXYGEN_FOUND)
  message(STATUS "The target docs is left out: it needs Doxygen (apt-get install doxygen)")
  return()
endif()
set(DOXYGEN_GENERATE_LATEX NO)
set(DOXYGEN_EXTRACT_ALL NO)
set(DOXYGEN_WARN_IF_UNDOCUMENTED YES)
set(DOXYGEN_WARN_NO_PARAMDOC NO)
set(DOXYGEN_WARN_AS_ERROR FAIL_ON_WARNINGS)
set(DOXYGEN_QUIET YES)
set(DOXYGEN_JAVADOC_AUTOBRIEF YES)
set(DOXYGEN_STRIP_FROM_PATH "${PROJECT_SOURCE_DIR}/include")
set(DOXYGEN_FILE_PATTERNS *.hpp)
set(DOXYGEN_HIDE_UNDOC_RELATIONS YES)
set(DOXYGEN_EXCLUDE_SYMBOLS *::detail detail::* *::detail::*)
set(DOXYGEN_MACRO_EXPANSION YES)
set(DOXYGEN_EXPAND_ONLY_PREDEF YES)
set(DOXYGEN_PREDEFINED "TORCH_MODULE(Name)=class Name : public torch::nn::ModuleHolder<Name##Impl> {}"
                       "TORCH_ARG(T, name)=T name")
doxygen_add_docs(docs "${PROJECT_SOURCE_DIR}/include" COMMENT "API reference")
