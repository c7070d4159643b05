"""The walls of the house: who imports whom, and where each foreign package may be touched.

The rules are read from ARCHITECTURE.md, so that page cannot say anything but what is kept. At the
end, the checker is shown bad modules and must find what is wrong with them.
"""

import ast
import configparser
import dataclasses
import itertools
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

ROOT = pathlib.Path(__file__).parent.parent
TRAINING = {
    "distiller",
    "schemes",
    "losses",
    "teachers",
    "targets",
    "features",
    "projectors",
    "quantization",
    "students",
    "ensembles",
    "workers",
}
# These stand outside of the package and write public names, of which whole modules are some.
OUTSIDE = {"tools", "examples", "cli"}
NOT_PUBLIC = {"cli", "deploy", "report"}

# The files that may touch what begins with a name; a folder ends in "/".
TOUCHED_IN = {
    # tf.lite is leaving TensorFlow.
    "tensorflow.lite": ["keras_kd/deploy/_convert_worker.py"],
    # A runtime's own API changes from version to version.
    "ai_edge_litert.interpreter": ["keras_kd/deploy/runtimes.py"],
    "ai_edge_litert.compiled_model": ["keras_kd/deploy/runtimes.py"],
    "tflite_micro": ["keras_kd/deploy/runtimes.py", "keras_kd/deploy/_micro_worker.py"],
    "ai_edge_litert": ["keras_kd/deploy/"],
    # Not in the core's dependencies.
    "matplotlib": ["keras_kd/report/", "keras_kd/cli/"],
    "sklearn": ["keras_kd/cli/"],
    "tensorflow_datasets": [],
    "tensorflow_model_optimization": ["keras_kd/quantization/"],
    "tf_keras": ["keras_kd/quantization/"],
    "apache_beam": ["keras_kd/targets/beam.py"],
}

# Rooms whose arithmetic is keras.ops alone.
WITHOUT_TENSORFLOW = {
    "numerics",
    "losses",
    "schedules",
    "metrics",
    "features",
    "projectors",
    "heads",
    "graph",
    "attention",
    "suggest",
    "students",
}


@dataclasses.dataclass(frozen=True)
class Private:
    """A private name of another package that we use, why, and whether it is still there."""

    name: str
    file: str
    reason: str
    exists: object


def model():
    inputs = keras.Input((3,))
    return keras.Model(inputs, keras.layers.Dense(2, activation="softmax", name="last")(inputs))


def compiled():
    made = model()
    made.compile("sgd", "mse")
    return made


PRIVATE = [
    Private(
        "_experimental_disable_per_channel_quantization_for_dense_layers",
        "keras_kd/deploy/_convert_worker.py",
        "some runtimes refuse Dense weights per channel, and no public switch turns that off",
        lambda: hasattr(
            tf.lite.TFLiteConverter.from_keras_model(model()),
            "_experimental_disable_per_channel_quantization_for_dense_layers",
        ),
    ),
    Private(
        "_compile_loss",
        "keras_kd/distiller.py",
        "the compiled task loss alone, without the regularizers that compute_loss adds",
        lambda: callable(compiled()._compile_loss),
    ),
    Private(
        "_keras_mask",
        "keras_kd/features.py",
        "the padding that a layer handed on; Keras's own losses read it there",
        lambda: hasattr(keras.layers.Masking()(np.zeros((1, 2, 3), "float32")), "_keras_mask"),
    ),
    Private(
        "_keras_logits",
        "keras_kd/heads.py",
        "the logits under a softmax, exact where probabilities have underflowed",
        lambda: hasattr(model()(np.zeros((1, 3), "float32")), "_keras_logits"),
    ),
    Private(
        "_keras_history",
        "keras_kd/heads.py",
        "the layer that made a symbolic tensor; Keras has no public way from tensor to layer",
        lambda: model().output._keras_history[0].name == "last",
    ),
    Private(
        "_keras_history",
        "keras_kd/quantization/tfmot/student.py",
        "the same in tf_keras, which has no public way either",
        lambda: hasattr(tf_keras.Input((1,)), "_keras_history"),
    ),
    Private(
        "_inputs",
        "keras_kd/data.py",
        "the stages of a tf.data pipeline, to name the one that shuffles",
        lambda: len(tf.data.Dataset.range(2).shuffle(2)._inputs()) == 1,
    ),
]


# -- the rules -------------------------------------------------------------------------------------


def rules_of(page):
    """Return {room: rooms it may import} from the page's block "Who may call whom"."""
    block = re.search(r"## Who may call whom\n.*?```\w*\n(.*?)```", page, re.DOTALL)
    assert block, "ARCHITECTURE.md has no fenced block under '## Who may call whom'"
    rules = {}
    for rule in re.split(r"\n|\s{2,}", block[1].strip()):
        if not rule.strip():
            continue
        sides = [
            [name.strip() for name in side.strip(" {}").split(",")] for side in rule.split("->")
        ]
        for callers, called in itertools.pairwise(sides):
            for caller in callers:
                rules.setdefault(caller, set()).update(set(called) - {"nothing"})
        if len(sides) == 1:
            raise AssertionError(f"not a rule: {rule!r}")
    return rules


# -- what a file imports ---------------------------------------------------------------------------


def module_of(path, root):
    """Return a file's dotted name, and that of the package it stands in."""
    parts = path.relative_to(root).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return name, name if parts[-1] == "__init__" else ".".join(parts[:-1])


def dotted(node):
    """Return "a.b.c" for the attribute path of that name, "" for anything else."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def imported(path, root):
    """Yield (line, dotted name) of everything a file imports, wherever in it the import stands.

    `from a import b` yields "a.b"; `import a as b; b.c.d` yields "a" and "a.c.d", so that an
    attribute path counts like an import. A relative import is made absolute.
    """
    tree = ast.parse(path.read_text(), filename=str(path))
    _, package = module_of(path, root)
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join(parents[: len(parents) - node.level + 1] + [base] * bool(base))
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
                names[alias.asname or alias.name] = f"{base}.{alias.name}"
        elif isinstance(node, ast.Call) and node.args:
            argument = node.args[0]
            if dotted(node.func).endswith(("import_module", "__import__")) and isinstance(
                argument, ast.Constant
            ):
                yield node.lineno, argument.value
    for node in ast.walk(tree):
        first, _, rest = dotted(node).partition(".")
        if rest and first in names:
            yield node.lineno, f"{names[first]}.{rest}"


def is_below(name, prefix):
    return name == prefix or name.startswith(prefix + ".")


def room_of(module, rules):
    """Return the room a dotted name of ours stands in: the longest one that has a rule."""
    parts = module.split(".")
    if parts[0] != "keras_kd":
        return parts[0]
    rooms = [".".join(parts[1:end]) for end in range(len(parts), 1, -1)]
    return next((room for room in rooms if room in rules), rooms[-1] if rooms else "keras_kd")


def sources(root):
    return [
        path
        for folder in ("keras_kd", "tools", "examples")
        for path in (root / folder).rglob("*.py")
    ]


# -- the checks ------------------------------------------------------------------------------------


def calls(root, rules):
    """Yield (place, caller's room, called room, name) of each import of ours in our code."""
    own_rooms = {
        path.stem
        for path in (root / "keras_kd").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    } - {"__init__"}
    for path in sources(root):
        caller = room_of(module_of(path, root)[0], rules)
        for line, name in imported(path, root):
            parts = name.split(".")
            if parts[0] != "keras_kd" or (parts[1:] and parts[1].startswith("__")):
                continue
            # `keras_kd.Distiller` is a public name, `keras_kd.losses.soft_target` a room's.
            called = room_of(name, rules) if parts[1:] and parts[1] in own_rooms else "keras_kd"
            yield f"{path.relative_to(root)}:{line}", caller, called, name


def wrong_calls(root, rules):
    """Return the imports from one room of ours into another that it has no rule for."""
    wrong = []
    for place, caller, called, name in calls(root, rules):
        if caller.split(".")[0] in OUTSIDE and called.split(".")[0] not in NOT_PUBLIC:
            called = "keras_kd"  # `keras_kd.losses.soft_target`, as a user would write it.
        within = called.split(".")[0] == caller.split(".")[0]
        if not within and called not in rules.get(caller, ()):
            wrong.append(f"{place} {caller} -> {called} ({name})")
    return wrong


def mixtures(root, rules):
    """Return the imports between training and deploy, which share nothing but the student."""
    wrong = []
    for place, *rooms, name in calls(root, rules):
        caller, called = (room.split(".")[0] for room in rooms)
        if (caller in TRAINING and called == "deploy") or (
            caller == "deploy" and called in TRAINING | {"keras_kd"}
        ):
            wrong.append(f"{place} {caller} -> {called} ({name})")
    return wrong


def touches(root, rules):
    """Return the uses of foreign packages outside of the files that may."""
    wrong = []
    for path in sources(root):
        file = str(path.relative_to(root))
        if not file.startswith("keras_kd/"):
            continue
        for line, name in imported(path, root):
            name = re.sub(r"^tensorflow\.compat\.v\d", "tensorflow", name)
            prefixes = [prefix for prefix in TOUCHED_IN if is_below(name, prefix)]
            allowed = TOUCHED_IN[max(prefixes, key=len)] if prefixes else None
            if allowed is not None and not any(
                file == place or (place.endswith("/") and file.startswith(place))
                for place in allowed
            ):
                wrong.append(f"{file}:{line} touches {name}")
            room = room_of(module_of(path, root)[0], rules).split(".")[0]
            if is_below(name, "tensorflow") and room in WITHOUT_TENSORFLOW:
                wrong.append(f"{file}:{line} {room} imports {name}")
    return wrong


def own_attributes(tree):
    """Yield the names that a file gives to the attributes and methods of its own classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for item in ast.walk(node):
                if isinstance(item, ast.FunctionDef):
                    yield item.name
                elif (
                    isinstance(item, ast.Attribute)
                    and isinstance(item.ctx, ast.Store)
                    and dotted(item.value) == "self"
                ):
                    yield item.attr
            for item in node.body:
                targets = getattr(item, "targets", [getattr(item, "target", None)])
                yield from (target.id for target in targets if isinstance(target, ast.Name))


def private_uses(root):
    """Return {(file, name)} of private names of other packages in our code.

    Those are: anything under `keras.src` or `tensorflow.python`; and every name with a single
    leading underscore that our own code does not define, read from an object or given as a string.
    """
    uses = set()
    paths = [path for path in sources(root) if "keras_kd" in path.relative_to(root).parts]
    trees = {path: ast.parse(path.read_text()) for path in paths}
    # Training and deploy do not know each other's classes.
    own: dict = {True: set(), False: set()}
    for path, tree in trees.items():
        own["deploy" in path.relative_to(root).parts].update(own_attributes(tree))
    for path, tree in trees.items():
        file = str(path.relative_to(root))
        for _, name in imported(path, root):
            if is_below(name, "keras.src") or is_below(name, "tensorflow.python"):
                uses.add((file, name))
        formatted = {
            id(part)
            for node in ast.walk(tree)
            if isinstance(node, ast.JoinedStr)
            for part in node.values
        }
        for node in ast.walk(tree):
            name = None
            if isinstance(node, ast.Attribute):
                name = node.attr
            elif isinstance(node, ast.Constant) and id(node) not in formatted:
                name = node.value if isinstance(node.value, str) else None
            known = own["deploy" in path.relative_to(root).parts]
            if name and re.fullmatch(r"_[a-z]\w+", name) and name not in known:
                uses.add((file, name))
    return uses


# -- the project itself ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rules():
    return rules_of((ROOT / "ARCHITECTURE.md").read_text())


def test_rooms_call_only_whom_they_may(rules):
    assert wrong_calls(ROOT, rules) == []


def test_training_and_deploy_do_not_know_each_other(rules):
    assert mixtures(ROOT, rules) == []


def test_foreign_packages_are_touched_in_one_place(rules):
    assert touches(ROOT, rules) == []


def test_every_room_has_a_rule(rules):
    rooms = {
        path.stem
        for path in (ROOT / "keras_kd").iterdir()
        if (path.suffix == ".py" or path.is_dir()) and not path.name.startswith("__")
    }
    assert rooms <= set(rules), f"in no rule of ARCHITECTURE.md: {sorted(rooms - set(rules))}"


def test_private_names_are_the_listed_ones():
    assert private_uses(ROOT) == {(private.file, private.name) for private in PRIVATE}


@pytest.mark.parametrize("private", PRIVATE, ids=lambda private: private.name)
def test_private_names_have_not_moved(private):
    assert private.exists(), f"{private.name} has gone; it was used because {private.reason}"


def test_every_test_stands_where_its_subject_does():
    """tests/ mirrors keras_kd/, beside contract/, golden/ and integration/."""
    rooms = {path.stem for path in (ROOT / "keras_kd").iterdir()}
    free = {"contract", "golden", "integration", "tools", "examples"}
    folders = {
        path.relative_to(ROOT / "tests").parts[0]
        for path in (ROOT / "tests").rglob("test_*.py")
        if path.parent != ROOT / "tests"
    }
    assert folders <= rooms | free


def test_no_file_is_endless():
    """A file over 300 lines wants a reason, which a reader is shown (`pytest -rP`)."""
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in [*sources(ROOT), *(ROOT / "tests").rglob("*.py")]
    }
    for file, length in sorted(lengths.items(), key=lambda item: -item[1]):
        if length > 300:
            print(f"{length:5d} lines {file}")
    # Beyond twice that there is none.
    assert {file: n for file, n in lengths.items() if n > 600 and "tests/" not in file} == {}


def test_the_wheel_holds_the_package_alone(tmp_path):
    """`tools` or `tests` at the top of a wheel would land in everybody's site-packages."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("keras_kd", "tools", "tests", "examples"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        (source / name / "__init__.py").touch()  # As if each were a package.
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*command, "--quiet", "--wheel-dir", tmp_path, source], check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"keras_kd"}
    assert "keras_kd/py.typed" in names
    assert any(name.endswith("/LICENSE") for name in names)
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "keras_kd").rglob("*.py")}
    assert modules <= set(names), "a folder without __init__.py is left out"


def test_upper_bounds_on_tensorflow_and_keras():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for package in ("tensorflow", "keras"):
        (line,) = re.findall(rf"^{package}>.*$", setup["options"]["install_requires"], re.MULTILINE)
        assert ",<" in line


# -- the checker itself ----------------------------------------------------------------------------

PAGE = """
## Who may call whom

```
tools -> cli -> {keras_kd, deploy}   examples -> keras_kd
keras_kd -> {distiller, deploy}
distiller -> losses -> numerics
deploy -> report             deploy.inspect -> nothing
numerics, report -> nothing
```
"""


def house(folder, files):
    """Write a small project of the given files, and the empty ones around them."""
    empty = ["__init__", "distiller", "losses/__init__", "numerics", "report", "deploy/__init__"]
    for name in [f"keras_kd/{name}.py" for name in empty]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name, source in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return folder


def test_rules_are_read():
    rules = rules_of(PAGE)
    assert rules["cli"] == {"keras_kd", "deploy"}
    assert rules["distiller"] == {"losses"}
    assert rules["losses"] == {"numerics"}
    assert rules["report"] == rules["deploy.inspect"] == set()


GOOD = {
    "tools/convert.py": "from keras_kd.cli import main\n",
    "keras_kd/cli/__init__.py": "import keras_kd\nx = keras_kd.losses.soft_target\n",
    "keras_kd/__init__.py": "from keras_kd.distiller import Distiller\n",
    "keras_kd/distiller.py": "from keras_kd.losses import base\nimport tensorflow as tf\n",
    "keras_kd/losses/kd.py": "from . import base\nfrom .. import numerics\n",
    "keras_kd/deploy/_convert_worker.py": "import tensorflow as tf\ntf.lite.TFLiteConverter\n",
}


def test_a_good_house_passes(tmp_path):
    root, rules = house(tmp_path, GOOD), rules_of(PAGE)
    assert wrong_calls(root, rules) == []
    assert mixtures(root, rules) == []
    assert touches(root, rules) == []
    assert private_uses(root) == set()


@pytest.mark.parametrize(
    ("file", "source", "check", "finding"),
    [
        ("numerics.py", "import keras_kd.losses", wrong_calls, "numerics -> losses"),
        ("losses/kd.py", "from .. import distiller", wrong_calls, "losses -> distiller"),
        ("losses/kd.py", "from ..distiller import f", wrong_calls, "losses -> distiller"),
        ("losses/kd.py", "import keras_kd as k\nk.Distiller", wrong_calls, "losses -> keras_kd"),
        (
            "deploy/inspect.py",
            "def f():\n    from keras_kd import report",
            wrong_calls,
            "-> report",
        ),
        ("report.py", "import_module('keras_kd.deploy')", wrong_calls, "report -> deploy"),
        ("distiller.py", "from keras_kd.deploy import x", mixtures, "distiller -> deploy"),
        ("deploy/convert.py", "from keras_kd.losses import x", mixtures, "deploy -> losses"),
        ("deploy/convert.py", "from keras_kd import Distiller", mixtures, "deploy -> keras_kd"),
        ("deploy/convert.py", "import tensorflow as tf\ntf.lite.X", touches, "tensorflow.lite"),
        ("report.py", "from tensorflow import lite", touches, "tensorflow.lite"),
        ("deploy/measure.py", "import tflite_micro", touches, "tflite_micro"),
        ("report.py", "import ai_edge_litert.schema_py_generated", touches, "ai_edge_litert"),
        ("distiller.py", "import matplotlib.pyplot as plt", touches, "matplotlib"),
        ("numerics.py", "import tensorflow as tf", touches, "numerics imports tensorflow"),
    ],
)
def test_a_broken_wall_is_found(tmp_path, file, source, check, finding):
    root = house(tmp_path, {**GOOD, f"keras_kd/{file}": source + "\n"})
    assert any(finding in line for line in check(root, rules_of(PAGE)))


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("from keras.src.backend import x", "keras.src.backend.x"),
        ("import keras\nkeras.src.tree", "keras.src.tree"),
        ("from tensorflow.python import y", "tensorflow.python.y"),
        ("def f(model):\n    return model._loss_tracker", "_loss_tracker"),
        ("def f(model):\n    setattr(model, '_experimental_x', 1)", "_experimental_x"),
    ],
)
def test_a_private_name_is_found(tmp_path, source, name):
    root = house(tmp_path, {"keras_kd/report.py": source + "\n"})
    assert name in {found for _, found in private_uses(root)}
