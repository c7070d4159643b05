"""What the tests of the examples share: the example itself, and made-up pictures for it."""

from pathlib import Path

import numpy as np
import pytest

from tests.examples.folder import imported


@pytest.fixture(scope="module")
def example(request):
    """The example that the test file is named for."""
    return imported(Path(request.module.__file__).stem.removeprefix("test_"))


@pytest.fixture(scope="session")
def bright_rows():
    """Makes `Data` of ten bright rows, one a class, in noise: learned in a few steps."""
    experiment = imported("experiment")

    def make(train, validation, test, *, shape=(28, 28, 1)):
        generator = np.random.default_rng(0)

        def split(count):
            y = np.arange(count) % 10
            x = generator.integers(0, 60, size=(count, *shape))
            x[np.arange(count), 2 + 2 * y] += 190
            return experiment.Split(x.astype(np.uint8), y)

        names = [f"row {k}" for k in range(10)]
        return experiment.Data(split(train), split(validation), split(test), names)

    return make
