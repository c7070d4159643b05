// Runs the recorded samples. Leave this file and the samples out of a finished application.
// Made by keras-kd package. Do not edit: make it again.

#include <cstdio>

#include "@{name}_inference.h"
#include "@{name}_samples.h"

namespace @{name}_inference {

int run_samples(void (*print)(const char* text)) {
@{buffers}
  char line[96];
  int failures = 0;
  for (int i = 0; i < sample_count; ++i) {
    std::snprintf(line, sizeof line, "sample %d\n", i);
    print(line);
    const Status status = predict_stored(@{arguments});
    bool same = status == Status::kOk;
    if (!same) {
      print("  ");
      print(text(status));
      print("\n");
    } else {
@{comparisons}
    }
    if (!same) {
      ++failures;
      print("  DIFFERENT\n");
    }
  }
  std::snprintf(line, sizeof line, "arena: %lu of %lu bytes used\n",
                static_cast<unsigned long>(arena_used_bytes()),
                static_cast<unsigned long>(arena_bytes));
  print(line);
  std::snprintf(line, sizeof line, "%s: %d of %d samples as expected\n",
                failures == 0 ? "PASS" : "FAIL", sample_count - failures, sample_count);
  print(line);
  return failures;
}

}  // namespace @{name}_inference
