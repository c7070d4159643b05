// Runs the model on TFLite Micro. Not reentrant: there is one arena.
// Made by keras-kd package. Do not edit: make it again.

#ifndef @{GUARD}_INFERENCE_H_
#define @{GUARD}_INFERENCE_H_

#include <cstddef>
#include <cstdint>

#include "@{name}_tensors.h"

namespace @{name}_inference {

// @{arena_provenance}
constexpr std::size_t arena_bytes = @{arena_bytes};

enum class Status {
  kOk,
  kWrongSchema,     // The model and TFLite Micro are of different schema versions.
  kOpMissing,       // An op could not be registered: TFLite Micro is older than the package.
  kArenaTooSmall,   // Or an op refused its tensors: TFLite Micro logs which.
  kTensorMismatch,  // A tensor has another size than the header says.
  kNotANumber,      // A NaN among the inputs; nothing was run.
  kInvokeFailed,    // An op failed: TFLite Micro logs which.
};

// The status in words, for a log.
const char* text(Status status);

// Makes the interpreter; the first call of any function below does it, too.
Status setup();

// Bytes of the arena that are in use; 0 before setup().
std::size_t arena_used_bytes();

// Runs one example of real numbers. Array lengths and meanings, each in the model's order:
@{argument_notes}
@{state_note}Status predict(@{real_arguments});

// The same with the numbers that the tensors hold: nothing is quantized or dequantized.
Status predict_stored(@{stored_arguments});
@{state_declarations}
// Runs every recorded sample and prints expected and actual outputs; returns how many differ.
int run_samples(void (*print)(const char* text));

}  // namespace @{name}_inference

#endif  // @{GUARD}_INFERENCE_H_
