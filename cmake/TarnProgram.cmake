# SPDX-License-Identifier: MIT
# What tarn's own programs (tests, benchmarks, examples) are built with. None of it reaches a user of tarn::tarn.
set(CMAKE_CXX_EXTENSIONS OFF)

add_library(tarn_dev INTERFACE)
target_link_libraries(tarn_dev INTERFACE tarn::tarn)
foreach(edge format fuse)
  if(TARGET tarn::${edge})
    target_link_libraries(tarn_dev INTERFACE tarn::${edge})
  endif()
endforeach()

add_library(tarn_dev_warnings INTERFACE)
if(TARN_DEV_WARNINGS)
  target_compile_options(tarn_dev_warnings INTERFACE -Wall -Wextra -Wconversion -Wshadow -Werror
                                                     $<$<CXX_COMPILER_ID:Clang>:-Wthread-safety>)
endif()
target_link_libraries(tarn_dev INTERFACE tarn_dev_warnings)

# Sets `can_var` to whether `source` can be built here: not if it includes the header of an edge that is switched off.
function(tarn_can_build name source can_var)
  set(${can_var} ON PARENT_SCOPE)
  foreach(edge format fuse)
    file(STRINGS ${source} uses_edge REGEX "^#include <tarn/${edge}(_async)?\\.hpp>")
    if(uses_edge AND NOT TARGET tarn::${edge})
      message(STATUS "${name} is left out: tarn::${edge} is off")
      set(${can_var} OFF PARENT_SCOPE)
    endif()
  endforeach()
endfunction()

# Adds the program `target` made of `source`, linked to tarn and the edges there are, and sets `added_var` to whether it
# did.
function(tarn_add_program target source added_var)
  tarn_can_build(${target} ${source} can)
  set(${added_var} ${can} PARENT_SCOPE)
  if(can)
    add_executable(${target} ${source})
    target_link_libraries(${target} PRIVATE tarn_dev)
  endif()
endfunction()

# The properties that a source states for its CTest test in one line, as in `// CTest: TIMEOUT 600 LABELS slow`.
function(tarn_set_stated_test_properties test source)
  file(STRINGS ${source} stated REGEX "^// CTest: ")
  foreach(line IN LISTS stated)
    string(REGEX REPLACE "^// CTest: " "" line "${line}")
    separate_arguments(properties UNIX_COMMAND "${line}")
    set_tests_properties(${test} PROPERTIES ${properties})
  endforeach()
endfunction()
