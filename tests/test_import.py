"""What `import keras_kd` costs and loads, and what it says on another backend than TensorFlow.

Each test asks a fresh process, as this one has imported everything already.
"""

import json
import os
import subprocess
import sys

import pytest

import keras_kd

# `import keras_kd` on top of `import keras`; what our modules cost, not what Keras does.
LIMIT_S = 0.2


def python(code, **environment):
    """Run code in a fresh interpreter and return the finished process."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


# One process answers all of this, as each of them takes seconds to import TensorFlow.
QUESTIONS = """
import json, sys, time
import keras
before = set(sys.modules)
start = time.process_time()
import keras_kd
seconds = time.process_time() - start
from keras_kd import cli
help_code = cli.main(["--help"])
loaded = sorted(set(sys.modules) - before)
missing = [name for name in keras_kd.__all__ if not hasattr(keras_kd, name)]
lazy = [keras_kd.deploy.__name__, keras_kd.report.__name__]
answers = {"seconds": seconds, "help_code": help_code, "loaded": loaded}
print(json.dumps({**answers, "missing": missing, "lazy": lazy}))
"""


def ask():
    result = python(QUESTIONS)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def answers():
    return ask()


def test_import_is_quick(answers):
    """In seconds of CPU, which a quiet machine takes; the best of at most four."""
    seconds = [answers["seconds"]]
    while min(seconds) >= LIMIT_S and len(seconds) < 4:
        seconds.append(ask()["seconds"])
    assert min(seconds) < LIMIT_S, f"import keras_kd took {seconds} s on top of keras"


def test_import_and_help_load_no_more_than_training_needs(answers):
    """Nothing of the converter, the interpreters, the plots or the demo's data.

    TensorFlow itself is loaded: the package registers its classes with Keras when it is imported,
    or `load_model` would not know them.
    """
    assert answers["help_code"] == 0
    heavy = ("tensorflow.lite", "ai_edge_litert", "tflite_micro", "matplotlib", "sklearn")
    assert "keras_kd.distiller" in answers["loaded"]
    assert [name for name in answers["loaded"] if name.startswith(heavy)] == []
    assert "keras_kd.deploy" not in answers["loaded"]
    assert "keras_kd.report" not in answers["loaded"]


def test_every_public_name_is_there_also_the_lazy_ones(answers):
    assert answers["missing"] == []
    assert answers["lazy"] == ["keras_kd.deploy", "keras_kd.report"]


# As the console script of an installed package does.
COMMAND = """
import sys
sys.argv = [{program!r}, *{arguments!r}]
from keras_kd.cli import main
code = main()
heavy = {{"tensorflow", "keras", "matplotlib", "ai_edge_litert.interpreter"}} & set(sys.modules)
assert not heavy, heavy
sys.exit(code)
"""


@pytest.mark.parametrize("program", ["/usr/bin/keras-kd", "keras-kd.exe", "keras-kd-script.py"])
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["report", "--help"]])
def test_the_command_helps_without_tensorflow_and_in_silence(program, arguments):
    result = python(COMMAND.format(program=program, arguments=arguments))
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "keras-kd" in result.stdout


def test_in_the_command_every_public_name_is_there_too():
    code = (
        "import sys; sys.argv = ['keras-kd']\n"
        "import keras_kd\n"
        "assert 'keras' not in sys.modules\n"
        "for name in keras_kd.__all__:\n"
        "    getattr(keras_kd, name)\n"
        "import keras\n"
        "assert keras.saving.get_registered_object('keras_kd>Distiller') is keras_kd.Distiller\n"
    )
    result = python(code)
    assert result.returncode == 0, result.stderr


def test_in_the_command_another_backend_is_one_clear_error_once_keras_is_needed():
    code = "import sys; sys.argv = ['keras-kd']; import keras_kd; keras_kd.Distiller"
    result = python(code, KERAS_BACKEND="jax")
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].startswith("ImportError: Expected Keras to run")


@pytest.mark.parametrize("backend", ["jax", "torch", "numpy"])
def test_another_backend_is_one_clear_error(backend):
    """Whether that backend is installed or not: the reason is ours, not that it is missing."""
    result = python("import keras_kd", KERAS_BACKEND=backend)
    assert result.returncode == 1
    error = result.stderr.strip().splitlines()[-1]
    assert error.startswith("ImportError: Expected")
    assert backend in error
    assert "Hint: set KERAS_BACKEND=tensorflow" in error
    assert "During handling of the above exception" not in result.stderr


def test_another_backend_in_keras_json_is_the_same_error(tmp_path):
    (tmp_path / "keras.json").write_text(json.dumps({"backend": "numpy"}))
    environment = {"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": ""}
    result = python("import os; del os.environ['KERAS_BACKEND']; import keras_kd", **environment)
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].startswith("ImportError: Expected")


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'keras_kd' has no attribute 'Distillator'"):
        _ = keras_kd.Distillator
