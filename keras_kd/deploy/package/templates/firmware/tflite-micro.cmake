# The target `tflm`: TFLite Micro with the kernels of TFLM_OPS, from the sources at TFLM_PATH, or
# the library TFLM_LIBRARY. See CMakeLists.txt.

set(TFLM_PATH "" CACHE PATH "A TFLite Micro source tree")
set(TFLM_DOWNLOADS "" CACHE PATH "flatbuffers, gemmlowp, ruy and kissfft")
set(TFLM_LIBRARY "" CACHE FILEPATH "A TFLite Micro library that is built already")

set(TFLM_MICRO "${TFLM_PATH}/tensorflow/lite/micro")
if(NOT EXISTS "${TFLM_MICRO}/micro_interpreter.h")
  message(FATAL_ERROR "Expected TFLite Micro's sources at TFLM_PATH. Received: '${TFLM_PATH}'. "
    "Hint: git clone https://github.com/tensorflow/tflite-micro, and -DTFLM_PATH=<its folder>.")
endif()
if(NOT TFLM_DOWNLOADS)
  if(EXISTS "${TFLM_PATH}/third_party/flatbuffers/include/flatbuffers/flatbuffers.h")
    set(TFLM_DOWNLOADS "${TFLM_PATH}/third_party")
  else()
    set(TFLM_DOWNLOADS "${TFLM_MICRO}/tools/make/downloads")
  endif()
endif()
if(NOT EXISTS "${TFLM_DOWNLOADS}/flatbuffers/include/flatbuffers/flatbuffers.h")
  message(FATAL_ERROR "Expected flatbuffers, gemmlowp, ruy and kissfft in '${TFLM_DOWNLOADS}'. "
    "Hint: make -f tensorflow/lite/micro/tools/make/Makefile third_party_downloads in the "
    "checkout, or -DTFLM_DOWNLOADS=<their folder>.")
endif()

set(TFLM_NOT_FOR_A_DEVICE
  "(_test|_test_common|/test_helper[a-z_]*|/(fake|mock|recording)_[a-z_]*|_generated_data)\\.(cc|cpp)$")

# What every model needs.
file(GLOB TFLM_SOURCES
  "${TFLM_MICRO}/*.c*"
  "${TFLM_MICRO}/arena_allocator/*.c*"
  "${TFLM_MICRO}/memory_planner/*.c*"
  "${TFLM_MICRO}/tflite_bridge/*.c*"
  "${TFLM_PATH}/tensorflow/lite/core/api/*.c*"
  "${TFLM_PATH}/tensorflow/lite/core/c/*.c*"
  "${TFLM_PATH}/tensorflow/lite/kernels/*.c*"
  "${TFLM_PATH}/tensorflow/lite/kernels/internal/*.c*"
  "${TFLM_PATH}/tensorflow/lite/kernels/internal/reference/*.c*"
  "${TFLM_PATH}/tensorflow/compiler/mlir/lite/core/api/*.c*"
  "${TFLM_PATH}/tensorflow/compiler/mlir/lite/schema/*.c*")
set(TFLM_DEFINITIONS TF_LITE_STATIC_MEMORY TF_LITE_DISABLE_X86_NEON)
if(NOT CMAKE_CROSSCOMPILING)
  list(APPEND TFLM_DEFINITIONS TF_LITE_USE_CTIME)
endif()
# Targets have a log or a clock of their own: tensorflow/lite/micro/<target>.
if(NOT EXISTS "${TFLM_MICRO}/debug_log.cc" AND NOT EXISTS "${TFLM_MICRO}/debug_log.cpp")
  file(GLOB TFLM_TARGET_SOURCES "${TFLM_MICRO}/cortex_m_generic/*.c*")
  list(APPEND TFLM_SOURCES ${TFLM_TARGET_SOURCES})
  # Without a device header there is no cycle counter: TFLite Micro's stubs stand in.
  list(APPEND TFLM_DEFINITIONS PROJECT_GENERATION)
endif()

# In a tree the optimized kernels stand in place of the reference ones, in folders of their own.
file(GLOB TFLM_KERNELS "${TFLM_MICRO}/kernels/*.c*" "${TFLM_PATH}/signal/micro/kernels/*.c*")
if(EXISTS "${TFLM_DOWNLOADS}/cmsis_nn/Source" AND EXISTS "${TFLM_MICRO}/kernels/cmsis_nn"
   AND NOT EXISTS "${TFLM_MICRO}/kernels/conv.cc")
  # A tree that was made with OPTIMIZED_KERNEL_DIR=cmsis_nn.
  file(GLOB TFLM_CMSIS_NN_KERNELS "${TFLM_MICRO}/kernels/cmsis_nn/*.c*")
  list(APPEND TFLM_KERNELS ${TFLM_CMSIS_NN_KERNELS})
  file(GLOB_RECURSE TFLM_CMSIS_NN_SOURCES "${TFLM_DOWNLOADS}/cmsis_nn/Source/*.c")
  list(APPEND TFLM_SOURCES ${TFLM_CMSIS_NN_SOURCES})
  list(APPEND TFLM_DEFINITIONS CMSIS_NN KERNELS_OPTIMIZED_FOR_SPEED
    ARM_NN_ENABLE_F16=0 ARM_NN_ENABLE_F32=0)
endif()
foreach(TFLM_LIST TFLM_SOURCES TFLM_KERNELS)
  list(FILTER ${TFLM_LIST} EXCLUDE REGEX "${TFLM_NOT_FOR_A_DEVICE}")
endforeach()

# The function that registers each op, as the resolver has it: AddConv2D takes Register_CONV_2D.
file(READ "${TFLM_MICRO}/micro_mutable_op_resolver.h" TFLM_RESOLVER)
set(TFLM_REGISTRATIONS "")
foreach(TFLM_OP IN LISTS TFLM_OPS)
  if(NOT TFLM_RESOLVER MATCHES " ${TFLM_OP}\\([^}]*(Register_[A-Za-z0-9_]+)")
    message(FATAL_ERROR "Expected ops that TFLite Micro at TFLM_PATH has. Received: ${TFLM_OP}. "
      "Hint: take the commit that README.md names.")
  endif()
  list(APPEND TFLM_REGISTRATIONS "${CMAKE_MATCH_1}")
endforeach()
list(REMOVE_DUPLICATES TFLM_REGISTRATIONS)

# Only the kernels that define one of these: all of TFLite Micro takes minutes to compile.
# A file that registers nothing helps those that include its header: pooling_common.cc, pooling.h.
foreach(TFLM_FILE IN LISTS TFLM_KERNELS)
  file(READ "${TFLM_FILE}" TFLM_TEXT)
  foreach(TFLM_REGISTRATION IN LISTS TFLM_REGISTRATIONS)
    if(TFLM_TEXT MATCHES "TFLMRegistration[*]? +${TFLM_REGISTRATION}\\(\\)")
      list(APPEND TFLM_SOURCES "${TFLM_FILE}")
      list(REMOVE_ITEM TFLM_REGISTRATIONS "${TFLM_REGISTRATION}")
    endif()
  endforeach()
  if(NOT TFLM_TEXT MATCHES "TFLMRegistration[*]? +Register_")
    string(REGEX REPLACE "(_common)?[.](c|cc|cpp)$" ".h" TFLM_HEADER "${TFLM_FILE}")
    list(APPEND "TFLM_BEHIND_${TFLM_HEADER}" "${TFLM_FILE}")
  endif()
endforeach()
if(TFLM_REGISTRATIONS)
  message(FATAL_ERROR "Expected kernels at TFLM_PATH that define ${TFLM_REGISTRATIONS}. "
    "Received: none. Hint: -DTFLM_LIBRARY=<a library that has them>.")
endif()
if(TFLM_SOURCES MATCHES "/signal/micro/kernels/")
  file(GLOB TFLM_SIGNAL_SOURCES
    "${TFLM_PATH}/signal/micro/kernels/*_common.c*"
    "${TFLM_PATH}/signal/src/*.c*"
    "${TFLM_PATH}/signal/src/kiss_fft_wrappers/*.c*")
  list(FILTER TFLM_SIGNAL_SOURCES EXCLUDE REGEX "${TFLM_NOT_FOR_A_DEVICE}")
  list(APPEND TFLM_SOURCES ${TFLM_SIGNAL_SOURCES})
endif()
list(REMOVE_DUPLICATES TFLM_SOURCES)
set(TFLM_TO_READ ${TFLM_SOURCES})
set(TFLM_SEEN "")
while(TFLM_TO_READ)
  list(GET TFLM_TO_READ 0 TFLM_FILE)
  list(REMOVE_AT TFLM_TO_READ 0)
  file(STRINGS "${TFLM_FILE}" TFLM_LINES REGEX "^#include \"tensorflow/lite/micro/kernels/")
  foreach(TFLM_LINE IN LISTS TFLM_LINES)
    string(REGEX REPLACE "^#include \"([^\"]+)\".*" "${TFLM_PATH}/\\1" TFLM_HEADER "${TFLM_LINE}")
    if(NOT TFLM_HEADER IN_LIST TFLM_SEEN AND EXISTS "${TFLM_HEADER}")
      list(APPEND TFLM_SEEN "${TFLM_HEADER}")
      list(APPEND TFLM_TO_READ "${TFLM_HEADER}" ${TFLM_BEHIND_${TFLM_HEADER}})
      list(APPEND TFLM_SOURCES ${TFLM_BEHIND_${TFLM_HEADER}})
    endif()
  endforeach()
endwhile()

set(TFLM_INCLUDES
  "${TFLM_PATH}"
  "${TFLM_DOWNLOADS}"
  "${TFLM_DOWNLOADS}/flatbuffers/include"
  "${TFLM_DOWNLOADS}/gemmlowp"
  "${TFLM_DOWNLOADS}/kissfft"
  "${TFLM_DOWNLOADS}/ruy"
  "${TFLM_DOWNLOADS}/cmsis_nn"
  "${TFLM_DOWNLOADS}/cmsis_nn/Include"
  "${TFLM_DOWNLOADS}/cmsis"
  "${TFLM_DOWNLOADS}/cmsis/CMSIS/Core/Include")
set(TFLM_FLAGS -ffunction-sections -fdata-sections
  $<$<COMPILE_LANGUAGE:CXX>:-fno-rtti> $<$<COMPILE_LANGUAGE:CXX>:-fno-exceptions>
  $<$<COMPILE_LANGUAGE:CXX>:-fno-threadsafe-statics>)

add_library(tflm INTERFACE)
target_include_directories(tflm SYSTEM INTERFACE ${TFLM_INCLUDES})
target_compile_definitions(tflm INTERFACE ${TFLM_DEFINITIONS})
target_compile_options(tflm INTERFACE ${TFLM_FLAGS})
if(TFLM_LIBRARY)
  target_link_libraries(tflm INTERFACE "${TFLM_LIBRARY}")
else()
  # Kernels for speed, the rest for size, as TFLite Micro's own Makefile does it.
  set(TFLM_FAST_SOURCES ${TFLM_SOURCES})
  list(FILTER TFLM_FAST_SOURCES INCLUDE REGEX "/micro/kernels/|/cmsis_nn/")
  if(CMAKE_BUILD_TYPE STREQUAL "MinSizeRel")
    set_source_files_properties(${TFLM_FAST_SOURCES} PROPERTIES COMPILE_OPTIONS "-O2")
  endif()
  add_library(tensorflow-microlite STATIC ${TFLM_SOURCES})
  target_include_directories(tensorflow-microlite SYSTEM PRIVATE ${TFLM_INCLUDES})
  target_compile_definitions(tensorflow-microlite PRIVATE ${TFLM_DEFINITIONS})
  target_compile_options(tensorflow-microlite PRIVATE ${TFLM_FLAGS})
  target_link_libraries(tflm INTERFACE tensorflow-microlite)
endif()
