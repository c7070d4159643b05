// The ops of the model, and no other, so that no other is linked.
// Made by keras-kd package. Do not edit: make it again.

#ifndef @{GUARD}_RESOLVER_H_
#define @{GUARD}_RESOLVER_H_

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

namespace @{name}_inference {

using Resolver = tflite::MicroMutableOpResolver<@{op_count}>;

inline TfLiteStatus register_ops(Resolver& resolver) {
@{registrations}
  return kTfLiteOk;
}

}  // namespace @{name}_inference

#endif  // @{GUARD}_RESOLVER_H_
