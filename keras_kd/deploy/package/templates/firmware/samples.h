// Recorded samples: what the inputs hold, and what TFLite Micro gave for it. Needs no TFLite Micro.
// Made by keras-kd package. Do not edit: make it again.
// @{provenance}

#ifndef @{GUARD}_SAMPLES_H_
#define @{GUARD}_SAMPLES_H_

#include <cstddef>
#include <cstdint>
#include <cstdio>

#include "@{name}_data.h"

namespace @{name}_inference {

constexpr int sample_count = @{sample_count};

@{declarations}

// Integers have to be equal to the last bit. Sums of float32 depend on the order of the terms,
// which is the compiler's and the processor's: these may differ by this share of the largest.
constexpr float float_tolerance = 1e-4f;

template <typename Stored>
bool is_as_expected(const Stored* expected, const Stored* actual, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    if (expected[i] != actual[i]) return false;
  }
  return true;
}

inline bool is_as_expected(const float* expected, const float* actual, std::size_t count) {
  float largest = 0.0f;
  for (std::size_t i = 0; i < count; ++i) {
    const float size = expected[i] < 0.0f ? -expected[i] : expected[i];
    if (size > largest) largest = size;
  }
  for (std::size_t i = 0; i < count; ++i) {
    if (expected[i] == actual[i]) continue;
    const float off = expected[i] - actual[i];
    // Written so that NaN is no match.
    if (!((off < 0.0f ? -off : off) <= float_tolerance * largest)) return false;
  }
  return true;
}

using Print = void (*)(const char* text);

inline void print_value(Print print, float value) {
  char text[32];
  std::snprintf(text, sizeof text, " %.6g", static_cast<double>(value));
  print(text);
}

template <typename Stored>
void print_value(Print print, Stored value) {
  char text[32];
  std::snprintf(text, sizeof text, " %ld", static_cast<long>(value));
  print(text);
}

// Prints one line: a label and at most 32 numbers.
template <typename Stored>
void print_values(Print print, const char* label, const Stored* values, std::size_t count) {
  const std::size_t shown = count < 32 ? count : 32;
  print(label);
  for (std::size_t i = 0; i < shown; ++i) print_value(print, values[i]);
  print(shown < count ? " ...\n" : "\n");
}

// Prints what was expected and what came; true if they are the same.
template <typename Stored>
bool compare(Print print, const char* label, const Stored* expected, const Stored* actual,
             std::size_t count) {
  print(label);
  print("\n");
  print_values(print, "    expected", expected, count);
  print_values(print, "    actual  ", actual, count);
  return is_as_expected(expected, actual, count);
}

}  // namespace @{name}_inference

#endif  // @{GUARD}_SAMPLES_H_
