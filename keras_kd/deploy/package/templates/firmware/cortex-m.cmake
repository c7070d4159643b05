# Toolchain file for Arm Cortex-M with Debian's gcc-arm-none-eabi:
#   cmake -B build-arm -DCMAKE_TOOLCHAIN_FILE=cmake/cortex-m.cmake -DTFLM_PATH=...
# Programs are linked with newlib's semihosting and its default memory map, which is no board's:
# good for their size. For a board, link the two libraries into its own project, which has the
# start-up code and the linker script.

set(CMAKE_SYSTEM_NAME Generic)
set(CMAKE_SYSTEM_PROCESSOR arm)
set(CORTEX_M "@{cpu}" CACHE STRING "As -mcpu takes it: cortex-m4, cortex-m7+nofp.dp, cortex-m55")
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES CORTEX_M)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
set(CMAKE_C_COMPILER arm-none-eabi-gcc)
set(CMAKE_CXX_COMPILER arm-none-eabi-g++)

if(CORTEX_M MATCHES "cortex-m(0|0plus|1|3|23)$")
  set(CORTEX_M_FLOAT "-mfloat-abi=soft")
else()
  set(CORTEX_M_FLOAT "-mfloat-abi=hard -mfpu=auto")
endif()
set(CMAKE_C_FLAGS_INIT "-mcpu=${CORTEX_M} -mthumb ${CORTEX_M_FLOAT}")
set(CMAKE_CXX_FLAGS_INIT "-mcpu=${CORTEX_M} -mthumb ${CORTEX_M_FLOAT}")
set(CMAKE_EXE_LINKER_FLAGS_INIT "--specs=nano.specs --specs=rdimon.specs")
