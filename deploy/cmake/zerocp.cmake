# How zerocp's targets are made: one function per kind of target, so that warnings, sanitizers,
# include paths and the mutants are decided in one place.
#
#   zerocp_library(NAME n SOURCES a.cc b.h ... [SHARED] [GENERATED] [ALIAS zerocp::x]
#                  [OUTPUT_NAME o] [SOVERSION s] [INCLUDE dir] [LIBS ...] [PRIVATE_LIBS ...])
#   zerocp_program(NAME n SOURCES a.cc ... [OUTPUT_NAME o] [LIBS ...])
#   zerocp_test(NAME n LABEL l SOURCES a.cc ... [LIBS ...] [DEPENDS target...] [ARGS ...]
#               [TIMEOUT seconds] [SERIAL] [OWN_MAIN] [GRPC])
#   zerocp_script_test(NAME n LABEL l COMMAND cmd ... [DEPENDS target...] [TIMEOUT seconds] [SERIAL] [GRPC])
#
# INCLUDE   a directory of public headers that users of the library get too (and an install gets
#           from ${CMAKE_INSTALL_INCLUDEDIR}); everybody inside includes from the root anyway.
# GENERATED the sources come from a code generator: no warnings for them, and their headers
#           (under INCLUDE) are system headers for users.
# DEPENDS   programs the test starts; they are built before it. A test finds programs in
#           $ZEROCP_BIN_DIR and the source tree in $ZEROCP_SOURCE_DIR.
# SERIAL    never beside another test. OWN_MAIN: the test has its own main(). GRPC: left out when
#           ZEROCP_GRPC is OFF.
# Labels:   unit system kill fuzz model interop bench.

include_guard(GLOBAL)

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_C_STANDARD 11)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/bin")
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/lib")
set(CMAKE_ARCHIVE_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/lib")
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo)
endif()

# Two build trees of one checkout share compiled objects: paths below the checkout are hashed
# relative to it and the build directory is not hashed at all.
find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(launcher "${CMAKE_COMMAND}" -E env "CCACHE_BASEDIR=${PROJECT_SOURCE_DIR}" CCACHE_NOHASHDIR=1
      "${CCACHE_PROGRAM}")
  set(CMAKE_C_COMPILER_LAUNCHER ${launcher})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${launcher})
endif()

# Sanitizers hold for every target, generated code too. tests/unit/canary_*.cc prove they are on.
set(zerocp_test_launcher "")
set(zerocp_timeout_factor 1)
if(ZEROCP_SANITIZE)
  if(NOT ZEROCP_SANITIZE MATCHES "^(address,undefined|thread)$")
    message(FATAL_ERROR "ZEROCP_SANITIZE is '${ZEROCP_SANITIZE}': use 'address,undefined' or 'thread'")
  endif()
  add_compile_options(-fsanitize=${ZEROCP_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${ZEROCP_SANITIZE})
  set(zerocp_timeout_factor 3)
endif()
if(ZEROCP_FUZZERS)
  add_compile_options(-fsanitize=fuzzer-no-link -fprofile-instr-generate -fcoverage-mapping)
  add_link_options(-fprofile-instr-generate)
endif()
if(ZEROCP_SANITIZE STREQUAL thread)
  # ThreadSanitizer of GCC 12 cannot place its shadow memory when vm.mmap_rnd_bits is above 28.
  execute_process(COMMAND setarch -R true RESULT_VARIABLE failed OUTPUT_QUIET ERROR_QUIET)
  if(failed)
    message(WARNING "setarch -R is not permitted here: ThreadSanitizer may fail with "
                    "'unexpected memory mapping' (lower vm.mmap_rnd_bits to 28)")
  else()
    set(zerocp_test_launcher setarch -R)
  endif()
endif()

# Ours alone, and private: neither users nor generated code ever see these.
set(zerocp_warnings
    -Wall -Wextra -Wpedantic -Werror -Wshadow -Wconversion -Wcast-align -Wcast-qual -Wundef
    -Wformat=2 -Wnon-virtual-dtor -Woverloaded-virtual -Wextra-semi)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
  list(APPEND zerocp_warnings -Wduplicated-cond -Wlogical-op
       -Wno-restrict)  # false positive in std::string with GCC 12, bug 105651
  if(ZEROCP_SANITIZE)
    # Instrumented code makes GCC see paths that do not exist; the plain build keeps the check.
    list(APPEND zerocp_warnings -Wno-maybe-uninitialized -Wno-stringop-overread -Wno-tsan)
  endif()
endif()

# What every target of ours has in common.
function(zerocp_set_up target)
  target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}")
  if(ZEROCP_MUTANTS)
    target_compile_definitions(${target} PRIVATE ZEROCP_MUTANTS)
  endif()
  foreach(option IN LISTS zerocp_warnings)
    if(option MATCHES "-Wnon-virtual-dtor|-Woverloaded-virtual|-Wextra-semi")
      target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${option}>)
    else()
      target_compile_options(${target} PRIVATE ${option})
    endif()
  endforeach()
endfunction()

# Refuses misspelled and missing arguments: cmake_parse_arguments alone drops them silently.
macro(zerocp_check_arguments function)
  if(ARG_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "${function}(${ARG_NAME}): unknown arguments: ${ARG_UNPARSED_ARGUMENTS}")
  endif()
  foreach(required ${ARGN})
    if(NOT DEFINED ARG_${required})
      message(FATAL_ERROR "${function}(${ARG_NAME}): ${required} is missing")
    endif()
  endforeach()
endmacro()

function(zerocp_library)
  cmake_parse_arguments(PARSE_ARGV 0 ARG "SHARED;GENERATED" "NAME;ALIAS;OUTPUT_NAME;SOVERSION;INCLUDE"
                        "SOURCES;LIBS;PRIVATE_LIBS")
  zerocp_check_arguments(zerocp_library NAME SOURCES)
  set(kind STATIC)
  if(ARG_SHARED)
    set(kind SHARED)
  endif()
  add_library(${ARG_NAME} ${kind} ${ARG_SOURCES})
  if(ARG_ALIAS)
    add_library(${ARG_ALIAS} ALIAS ${ARG_NAME})
  endif()
  if(ARG_OUTPUT_NAME)
    set_target_properties(${ARG_NAME} PROPERTIES OUTPUT_NAME ${ARG_OUTPUT_NAME})
  endif()
  if(DEFINED ARG_SOVERSION)
    set_target_properties(${ARG_NAME} PROPERTIES SOVERSION ${ARG_SOVERSION})
  endif()
  set_target_properties(${ARG_NAME} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  if(ARG_GENERATED)
    target_include_directories(${ARG_NAME} SYSTEM PUBLIC "${ARG_INCLUDE}")
  else()
    zerocp_set_up(${ARG_NAME})
    # Hidden also in the static libraries, for their objects end up in libzerocp.
    set_target_properties(${ARG_NAME} PROPERTIES C_VISIBILITY_PRESET hidden
                          CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
    if(ARG_INCLUDE)
      target_include_directories(${ARG_NAME} PUBLIC "$<BUILD_INTERFACE:${ARG_INCLUDE}>"
                                 "$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>")
    endif()
  endif()
  target_link_libraries(${ARG_NAME} PUBLIC ${ARG_LIBS} PRIVATE ${ARG_PRIVATE_LIBS})
endfunction()

function(zerocp_program)
  cmake_parse_arguments(PARSE_ARGV 0 ARG "" "NAME;OUTPUT_NAME" "SOURCES;LIBS")
  zerocp_check_arguments(zerocp_program NAME SOURCES)
  add_executable(${ARG_NAME} ${ARG_SOURCES})
  if(ARG_OUTPUT_NAME)
    set_target_properties(${ARG_NAME} PROPERTIES OUTPUT_NAME ${ARG_OUTPUT_NAME})
  endif()
  zerocp_set_up(${ARG_NAME})
  target_link_libraries(${ARG_NAME} PRIVATE ${ARG_LIBS})
endfunction()

# Label, time limit and surroundings of the ctest entry `name`; reads the caller's ARG_*.
macro(zerocp_register_test name)
  if(NOT ARG_LABEL MATCHES "^(unit|system|kill|fuzz|model|interop|bench)$")
    message(FATAL_ERROR "${name}: unknown LABEL '${ARG_LABEL}'")
  endif()
  if(NOT DEFINED ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  math(EXPR timeout "${ARG_TIMEOUT} * ${zerocp_timeout_factor}")
  # COST: the longest ones begin, and no processor waits for them at the end.
  set_tests_properties(${name} PROPERTIES LABELS ${ARG_LABEL} TIMEOUT ${timeout} COST ${timeout}
    RUN_SERIAL ${ARG_SERIAL}
    ENVIRONMENT "ZEROCP_BIN_DIR=${PROJECT_BINARY_DIR}/bin;ZEROCP_SOURCE_DIR=${PROJECT_SOURCE_DIR}")
endmacro()

# One ctest entry per executable. A GTEST_SKIP, a DISABLED_ test and an executable without tests all
# make the entry fail: nothing is left out silently. Unit and system tests are not optimised, which
# would be half of what building them takes, but for those whose own instructions are counted.
function(zerocp_test)
  cmake_parse_arguments(PARSE_ARGV 0 ARG "SERIAL;OWN_MAIN;GRPC;OPTIMISED" "NAME;LABEL;TIMEOUT"
                        "SOURCES;LIBS;DEPENDS;ARGS")
  zerocp_check_arguments(zerocp_test NAME LABEL SOURCES)
  if(ARG_GRPC AND NOT ZEROCP_GRPC)
    return()
  endif()
  set(gtest GTest::gmock_main)
  if(ARG_OWN_MAIN)
    set(gtest GTest::gmock)
  endif()
  zerocp_program(NAME ${ARG_NAME} SOURCES ${ARG_SOURCES} LIBS ${ARG_LIBS} ${gtest} Threads::Threads)
  if(ARG_LABEL MATCHES "^(unit|system)$" AND NOT ARG_OPTIMISED)
    target_compile_options(${ARG_NAME} PRIVATE -O0)
  endif()
  if(ARG_DEPENDS)
    add_dependencies(${ARG_NAME} ${ARG_DEPENDS})
  endif()
  add_test(NAME ${ARG_NAME} COMMAND ${zerocp_test_launcher} $<TARGET_FILE:${ARG_NAME}> ${ARG_ARGS})
  zerocp_register_test(${ARG_NAME})
  set_tests_properties(${ARG_NAME} PROPERTIES FAIL_REGULAR_EXPRESSION
    "\\[  SKIPPED \\];YOU HAVE [0-9]+ DISABLED TEST;Running 0 tests")
endfunction()

# A test that is a command. Building the target of the same name builds what the command needs.
function(zerocp_script_test)
  cmake_parse_arguments(PARSE_ARGV 0 ARG "SERIAL;GRPC" "NAME;LABEL;TIMEOUT" "COMMAND;DEPENDS")
  zerocp_check_arguments(zerocp_script_test NAME LABEL COMMAND)
  if(ARG_GRPC AND NOT ZEROCP_GRPC)
    return()
  endif()
  add_custom_target(${ARG_NAME})
  if(ARG_DEPENDS)
    add_dependencies(${ARG_NAME} ${ARG_DEPENDS})
  endif()
  add_test(NAME ${ARG_NAME} COMMAND ${ARG_COMMAND})
  zerocp_register_test(${ARG_NAME})
endfunction()
