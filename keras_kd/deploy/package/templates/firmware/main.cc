// Runs the recorded samples where there is a standard output: a host, an emulator, semihosting.
// Exit code 0: every output is the expected one, by predict_stored() and by predict().

#include <cstdio>

#include "@{name}_inference.h"
#include "@{name}_samples.h"

namespace {

void print(const char* text) { std::fputs(text, stdout); }

// The samples as real numbers through predict(): how many differ.
int run_real_samples() {
  using namespace @{name}_inference;
@{buffers}
  int failures = 0;
  for (int i = 0; i < sample_count; ++i) {
@{dequantized_inputs}
    bool same = predict(@{arguments}) == Status::kOk;
@{comparisons}
    if (!same) ++failures;
  }
  return failures;
}

}  // namespace

int main() {
  const int stored = @{name}_inference::run_samples(print);
  const int real = run_real_samples();
  std::printf("%s: %d samples differ through predict()\n", real == 0 ? "PASS" : "FAIL", real);
  return stored == 0 && real == 0 ? 0 : 1;
}
