# SPDX-License-Identifier: MIT
# Headers, one export set for each component (so that who asks for the core alone needs neither fmt nor libfuse), and
# the package that find_package(tarn) reads.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

# Nothing here is built, so nothing depends on the machine's word size: share/, as for other header-only packages.
set(package_dir ${CMAKE_INSTALL_DATADIR}/cmake/tarn)

function(tarn_install_component target export)
  install(TARGETS ${target} EXPORT ${export} FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
  install(EXPORT ${export} NAMESPACE tarn:: DESTINATION ${package_dir})
endfunction()

tarn_install_component(tarn tarnTargets)
if(TARN_FORMAT)
  tarn_install_component(tarn_format tarnFormatTargets)
endif()
if(TARN_FUSE)
  tarn_install_component(tarn_fuse tarnFuseTargets)
endif()

configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/tarnConfig.cmake.in ${PROJECT_BINARY_DIR}/tarnConfig.cmake
                              INSTALL_DESTINATION ${package_dir})
# Before 1.0 a minor version may break; from 1.0 on this becomes SameMajorVersion.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/tarnConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${PROJECT_BINARY_DIR}/tarnConfig.cmake ${PROJECT_BINARY_DIR}/tarnConfigVersion.cmake
        DESTINATION ${package_dir})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/licenses/tarn)
