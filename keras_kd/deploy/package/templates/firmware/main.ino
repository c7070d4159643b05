// Runs the recorded samples and prints expected and actual outputs to the serial port, for ever.
// Made by keras-kd package.

#include <Arduino.h>
@{library_include}
#include "@{name}_inference.h"

namespace {

void print(const char* text) { Serial.print(text); }

}  // namespace

void setup() {
  Serial.begin(115200);
  while (!Serial && millis() < 5000) {
  }
}

void loop() {
  @{name}_inference::run_samples(print);
  delay(5000);
}
