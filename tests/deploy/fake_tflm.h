// A stand-in for TFLite Micro, for tests without its sources: it knows the recorded samples, and
// gives a sample's outputs if all inputs are that sample's. TEST_* are set by the compiler's -D.
#ifndef FAKE_TFLM_H_
#define FAKE_TFLM_H_
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#define TFLITE_SCHEMA_VERSION (3)
#define TF_LITE_ENSURE_STATUS(a)            \
  do {                                      \
    if ((a) != kTfLiteOk) return kTfLiteError; \
  } while (false)
enum TfLiteStatus { kTfLiteOk, kTfLiteError };
struct TfLiteTensor {
  std::size_t bytes;
  struct { char* raw; } data;
};
struct Slot {
  std::size_t bytes;
  const char* samples;
  char* now;
};
extern Slot fake_inputs[], fake_outputs[];
extern const int fake_input_count, fake_output_count, fake_sample_count;
extern int fake_resets, fake_registered;
namespace tflite {
struct Model {
  int version() const { return TEST_SCHEMA; }
};
inline const Model* GetModel(const void*) {
  static Model model;
  return &model;
}
inline void InitializeTarget() {}
template <unsigned int Count>
struct MicroMutableOpResolver {
  TfLiteStatus Add() { return ++fake_registered > static_cast<int>(Count) ? kTfLiteError : kTfLiteOk; }
#define OP(name) TfLiteStatus name() { return Add(); }
  TEST_METHODS
};
struct MicroAllocator {
  static MicroAllocator* Create(std::uint8_t*, std::size_t) {
    static MicroAllocator made;
    return &made;
  }
};
struct MicroResourceVariables {
  int count = 0;
  static MicroResourceVariables* Create(MicroAllocator*, int count) {
    static MicroResourceVariables made;
    made.count = count;
    return &made;
  }
};
struct MicroInterpreter {
  template <typename Resolver>
  MicroInterpreter(const Model*, const Resolver&, std::uint8_t*, std::size_t size) : size_(size) {}
  template <typename Resolver>
  MicroInterpreter(const Model*, const Resolver&, MicroAllocator*, MicroResourceVariables* variables)
      : size_(static_cast<std::size_t>(variables->count)) {}
  TfLiteStatus AllocateTensors() { return size_ < TEST_NEEDED ? kTfLiteError : kTfLiteOk; }
  TfLiteTensor* input(std::size_t i) { return tensor(fake_inputs[i], inputs_[i]); }
  TfLiteTensor* output(std::size_t i) { return tensor(fake_outputs[i], outputs_[i]); }
  std::size_t arena_used_bytes() const { return size_; }
  TfLiteStatus Reset() {
    ++fake_resets;
    return kTfLiteOk;
  }
  TfLiteStatus Invoke() {
    for (int s = 0; s < fake_sample_count; ++s) {
      bool same = true;
      for (int i = 0; i < fake_input_count; ++i) {
        const Slot& slot = fake_inputs[i];
        same = same && !std::memcmp(slot.now, slot.samples + s * slot.bytes, slot.bytes);
      }
      if (!same) continue;
      for (int i = 0; i < fake_output_count; ++i) {
        const Slot& slot = fake_outputs[i];
        std::memcpy(slot.now, slot.samples + s * slot.bytes, slot.bytes);
        slot.now[slot.bytes - 1] ^= TEST_FLIP;
      }
      return kTfLiteOk;
    }
    return kTfLiteError;
  }

 private:
  static TfLiteTensor* tensor(const Slot& slot, TfLiteTensor& made) {
    made.bytes = slot.bytes - TEST_SHORT;
    made.data.raw = slot.now;
    return &made;
  }
  std::size_t size_;
  TfLiteTensor inputs_[8], outputs_[8];
};
}  // namespace tflite
#endif
