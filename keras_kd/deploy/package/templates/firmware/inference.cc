#include "@{name}_inference.h"

#include "@{name}_data.h"
#include "@{name}_resolver.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
@{resource_include}#include "tensorflow/lite/micro/system_setup.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace @{name}_inference {
namespace {

alignas(16) std::uint8_t arena[arena_bytes];
tflite::MicroInterpreter* interpreter = nullptr;

template <typename Stored>
bool holds(const TfLiteTensor* tensor, std::size_t elements) {
  return tensor != nullptr && tensor->bytes == elements * sizeof(Stored);
}

template <typename Stored>
Stored* input(std::size_t index) {
  return reinterpret_cast<Stored*>(interpreter->input(index)->data.raw);
}

template <typename Stored>
const Stored* output(std::size_t index) {
  return reinterpret_cast<const Stored*>(interpreter->output(index)->data.raw);
}

Status invoke() {
  return interpreter->Invoke() == kTfLiteOk ? Status::kOk : Status::kInvokeFailed;
}

}  // namespace

const char* text(Status status) {
  switch (status) {
    case Status::kOk: return "ok";
    case Status::kWrongSchema: return "model and TFLite Micro are of different schema versions";
    case Status::kOpMissing: return "an op could not be registered";
    case Status::kArenaTooSmall: return "the arena is too small, or an op refused its tensors";
    case Status::kTensorMismatch: return "a tensor has another size than the header says";
    case Status::kNotANumber: return "a NaN among the inputs";
    case Status::kInvokeFailed: return "an op failed";
  }
  return "unknown";
}

Status setup() {
  if (interpreter != nullptr) return Status::kOk;
  tflite::InitializeTarget();
  const tflite::Model* model = tflite::GetModel(@{name}_data);
  if (model->version() != TFLITE_SCHEMA_VERSION) return Status::kWrongSchema;
  static Resolver resolver;
  static const TfLiteStatus registered = register_ops(resolver);
  if (registered != kTfLiteOk) return Status::kOpMissing;
@{make_interpreter}
  if (made.AllocateTensors() != kTfLiteOk) return Status::kArenaTooSmall;
@{tensor_checks}
  interpreter = &made;
  return Status::kOk;
}

std::size_t arena_used_bytes() {
  return interpreter == nullptr ? 0 : interpreter->arena_used_bytes();
}
@{state_definitions}
Status @{predict_name}(@{real_arguments}) {
  Status status = setup();
  if (status != Status::kOk) return status;
@{real_inputs}
  status = invoke();
  if (status != Status::kOk) return status;
@{real_outputs}
  return Status::kOk;
}

Status @{predict_stored_name}(@{stored_arguments}) {
  Status status = setup();
  if (status != Status::kOk) return status;
@{stored_inputs}
  status = invoke();
  if (status != Status::kOk) return status;
@{stored_outputs}
  return Status::kOk;
}
@{predict_from_start}
}  // namespace @{name}_inference
