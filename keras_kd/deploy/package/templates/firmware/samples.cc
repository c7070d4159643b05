#include "@{name}_samples.h"

#include <limits>

namespace @{name}_inference {

@{definitions}
}  // namespace @{name}_inference
