// Numbers in and out of the model's tensors. Plain C++11: needs no TFLite Micro and no board.
// Made by keras-kd package. Do not edit: make it again.

#ifndef @{GUARD}_TENSORS_H_
#define @{GUARD}_TENSORS_H_

#include <cstddef>
#include <cstdint>
#include <limits>

#include "@{name}_data.h"

#ifdef __FAST_MATH__
#error "quantize() looks for NaN, which -ffast-math does not allow: build without it."
#endif

namespace @{name}_inference {

// stored = clip(round(real / scale) + zero_point), halves away from zero, as TFLite's QUANTIZE.
// Infinity becomes the highest or lowest number. NaN has no counterpart; it becomes zero_point.
template <typename Stored>
Stored quantize(float real, float scale, std::int32_t zero_point) {
  const float limit = 131072.0f;  // Beyond any 16-bit number, and within std::int32_t.
  float ratio = real / scale;
  if (ratio != ratio) ratio = 0.0f;
  const bool is_negative = ratio < 0.0f;
  float magnitude = is_negative ? -ratio : ratio;
  if (magnitude > limit) magnitude = limit;
  std::int32_t rounded = static_cast<std::int32_t>(magnitude);
  // No std::round: some Arduino cores have a macro of that name, which rounds otherwise.
  if (magnitude - static_cast<float>(rounded) >= 0.5f) ++rounded;
  const std::int32_t stored = (is_negative ? -rounded : rounded) + zero_point;
  // In parentheses, since `min` and `max` are macros there, too.
  const std::int32_t lowest = (std::numeric_limits<Stored>::min)();
  const std::int32_t highest = (std::numeric_limits<Stored>::max)();
  return static_cast<Stored>(stored < lowest ? lowest : stored > highest ? highest : stored);
}

// real = scale * (stored - zero_point).
template <typename Stored>
float dequantize(Stored stored, float scale, std::int32_t zero_point) {
  return scale * static_cast<float>(static_cast<std::int32_t>(stored) - zero_point);
}

// `quantize` of each; false if there was a NaN among them.
template <typename Stored>
bool quantize(const float* real, Stored* stored, std::size_t count, float scale,
              std::int32_t zero_point) {
  bool are_numbers = true;
  for (std::size_t i = 0; i < count; ++i) {
    if (real[i] != real[i]) are_numbers = false;
    stored[i] = quantize<Stored>(real[i], scale, zero_point);
  }
  return are_numbers;
}

// `dequantize` of each.
template <typename Stored>
void dequantize(const Stored* stored, float* real, std::size_t count, float scale,
                std::int32_t zero_point) {
  for (std::size_t i = 0; i < count; ++i) real[i] = dequantize(stored[i], scale, zero_point);
}

// For tensors that hold the numbers themselves.
template <typename Stored>
void copy(const Stored* from, Stored* to, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) to[i] = from[i];
}

}  // namespace @{name}_inference

#endif  // @{GUARD}_TENSORS_H_
