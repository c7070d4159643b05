// Start-up code of the emulated board that the tests run firmware on: QEMU's mps2-an386, a
// Cortex-M4F with 4 MiB of memory at 0, which holds the program, its variables and its stack.
//
// Behind it newlib's own start-up code (rdimon) sets up C and C++ and hands main's output and exit
// code to the emulator by semihosting.

extern void _start(void);

static void reset(void) {
  // CPACR: the floating-point unit, coprocessors 10 and 11, is off at reset.
  // Armv7-M Architecture Reference Manual (Arm DDI 0403), B3.2.20.
  *(volatile unsigned*)0xE000ED88 |= 0xFu << 20;
  __asm volatile("dsb\n\tisb");
  _start();
}

// The first two words of memory: the stack's top and where to begin (Arm DDI 0403, B1.5.3).
__attribute__((section(".vectors"))) void* const vectors[] = {(void*)0x00400000, (void*)reset};
