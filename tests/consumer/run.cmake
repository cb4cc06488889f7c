# SPDX-License-Identifier: MIT
# Builds and runs the consumer, from nothing. HOW is "installed" or "subdirectory".
set(prefix ${WORK_DIR}/prefix)
file(REMOVE_RECURSE ${WORK_DIR})
file(MAKE_DIRECTORY ${WORK_DIR})

# Runs a command, which must end with 0 or, where `refusal` is not empty, fail and say something that matches it.
function(run refusal)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  list(JOIN ARGN " " command)
  if(refusal STREQUAL "" AND NOT result EQUAL 0)
    message(FATAL_ERROR "${command}\nended with ${result}:\n${output}")
  elseif(NOT refusal STREQUAL "" AND (result EQUAL 0 OR NOT output MATCHES "${refusal}"))
    message(FATAL_ERROR "${command}\nended with ${result}; it should have failed and said \"${refusal}\":\n${output}")
  endif()
endfunction()

function(build_and_run folder components)
  set(build ${WORK_DIR}/${folder})
  # A list inside a list: the semicolons must survive two expansions.
  string(REPLACE ";" "\\;" components "${components}")
  run("" ${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR} -B ${build} -G ${GENERATOR} -D CMAKE_CXX_COMPILER=${CXX}
      "-DCOMPONENTS=${components}" ${ARGN})
  run("" ${CMAKE_COMMAND} --build ${build})
  foreach(program core ${components})
    if(NOT program STREQUAL "core")
      set(program edge_${program})
    endif()
    run("" ${build}/${program})
  endforeach()
endfunction()

set(edges)
if(FORMAT)
  list(APPEND edges format)
endif()
if(FUSE)
  list(APPEND edges fuse)
endif()

if(HOW STREQUAL "subdirectory")
  build_and_run(every_edge "${edges}" -D TARN_SUBDIRECTORY=${TARN_SOURCE_DIR})
  build_and_run(core_alone "" -D TARN_SUBDIRECTORY=${TARN_SOURCE_DIR} -D TARN_FORMAT=OFF -D TARN_FUSE=OFF)
elseif(HOW STREQUAL "installed")
  run("" ${CMAKE_COMMAND} --install ${TARN_BINARY_DIR} --prefix ${prefix})

  file(GLOB_RECURSE in_tree RELATIVE ${TARN_SOURCE_DIR}/include ${TARN_SOURCE_DIR}/include/*.hpp)
  file(GLOB_RECURSE installed RELATIVE ${prefix}/include ${prefix}/include/*)
  if(NOT FORMAT)
    list(REMOVE_ITEM in_tree tarn/format.hpp)
  endif()
  if(NOT FUSE)
    list(REMOVE_ITEM in_tree tarn/fuse.hpp tarn/fuse_async.hpp)
  endif()
  list(SORT in_tree)
  list(SORT installed)
  if(NOT in_tree STREQUAL installed)
    message(FATAL_ERROR "the tree has ${in_tree}\nbut installed was ${installed}")
  endif()

  build_and_run(every_edge "${edges}" -D CMAKE_PREFIX_PATH=${prefix})
  build_and_run(core_alone "" -D CMAKE_PREFIX_PATH=${prefix})
  # A component that is asked for and is not there stops the configuration.
  run("tarn::teleport: no such component was[ \n]+installed" ${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR} -B ${WORK_DIR}/no_such_edge
      -G ${GENERATOR} -D CMAKE_CXX_COMPILER=${CXX} -D COMPONENTS=teleport -D CMAKE_PREFIX_PATH=${prefix})
else()
  message(FATAL_ERROR "HOW is \"${HOW}\"; it is to be installed or subdirectory")
endif()
