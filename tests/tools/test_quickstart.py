"""The quickstart's set-up, with the commands recorded instead of run: no network, no venv."""

import ast
import importlib
import os
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


class Machine:
    """A machine on which every command is written down; `codes` has those that fail."""

    def __init__(self, quickstart, environment, root, monkeypatch):
        self.quickstart, self.environment = quickstart, environment
        self.commands, self.codes, self.version = [], {}, None
        self.interrupt = None
        monkeypatch.setattr(environment, "ROOT", root)
        monkeypatch.setattr(environment, "VENV", root / ".venv")
        monkeypatch.setattr(environment, "UNFINISHED", root / ".venv" / "unfinished")
        monkeypatch.setattr(environment, "call", self.call)
        monkeypatch.setattr(environment, "_version_of", lambda python: self.version)
        monkeypatch.setattr(quickstart.sys, "argv", ["quickstart.py"])

    def call(self, command, **options):
        words = [str(part) for part in command]
        kind = next((word for word in ("venv", "install", "check") if word in words), "demo")
        if kind == "check":
            return 0
        self.commands.append((kind, words, options))
        if kind == self.interrupt:
            raise KeyboardInterrupt
        if kind == "venv":
            self.environment.VENV.mkdir(exist_ok=True)
            for path in self.environment.VENV.iterdir():  # As --clear does.
                path.unlink()
            self.version = sys.version_info[:2]
        return self.codes.get(kind, 0)

    def run(self, *arguments):
        self.commands = []
        self.quickstart.sys.argv[1:] = arguments
        code = self.quickstart.main()
        return code, [kind for kind, *_ in self.commands]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    quickstart, environment = (importlib.import_module(n) for n in ("quickstart", "environment"))
    for name in ("setup.cfg", "pyproject.toml"):
        (tmp_path / name).write_text(f"[{name}]")
    return Machine(quickstart, environment, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", ["quickstart", "run_tests", "environment"])
def test_it_needs_nothing_but_the_standard_library(name):
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(ast.parse((TOOLS / f"{name}.py").read_text()))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert imported <= sys.stdlib_module_names | {"environment"}


def test_a_fresh_machine_gets_all_three_steps(machine, capsys):
    assert machine.run("--seeds", "5") == (0, ["venv", "install", "demo"])
    (_, venv, _), (_, install, _), (_, demo, demo_options) = machine.commands
    assert "--clear" in venv
    assert install[-3:] == ["install", "--editable", ".[demo]"]
    assert demo_options["cwd"] is None  # The demo writes where the caller stands.
    assert Path(demo[0]).parent == machine.environment.venv_python().parent
    assert demo[1:] == ["demo", "--seeds", "5"]
    assert demo_options["env"]["TF_CPP_MIN_LOG_LEVEL"] == os.environ["TF_CPP_MIN_LOG_LEVEL"]
    out = capsys.readouterr().out
    assert [word in out for word in ("Making", "Installing", "keras-kd demo")] == [True] * 3


def test_again_it_goes_straight_to_the_demo(machine):
    machine.run()
    assert machine.run() == (0, ["demo"])


@pytest.mark.parametrize("name", ["setup.cfg", "pyproject.toml"])
def test_it_installs_again_when_the_project_changed(machine, name):
    machine.run()
    (machine.environment.ROOT / name).write_text("[changed]")
    assert machine.run() == (0, ["install", "demo"])
    assert machine.run() == (0, ["demo"])


def test_an_interrupted_installation_is_begun_anew(machine, capsys):
    machine.interrupt = "install"
    assert machine.run() == (130, ["venv", "install"])
    err = capsys.readouterr().err.strip()
    assert err == "interrupted; run it again to go on"
    machine.interrupt = None
    assert machine.run() == (0, ["venv", "install", "demo"])
    assert machine.run() == (0, ["demo"])


def test_an_update_that_is_interrupted_is_not_taken_for_done(machine):
    machine.run()
    (machine.environment.ROOT / "setup.cfg").write_text("[changed]")
    machine.interrupt = "install"
    assert machine.run() == (130, ["install"])
    machine.interrupt = None
    assert machine.run() == (0, ["venv", "install", "demo"])


def test_a_venv_that_was_interrupted_is_made_anew(machine):
    machine.interrupt = "venv"
    assert machine.run() == (130, ["venv"])
    machine.interrupt = None
    assert machine.run() == (0, ["venv", "install", "demo"])


@pytest.mark.parametrize(
    ("step", "message"), [("venv", "python3-venv"), ("install", "package index")]
)
def test_a_step_that_fails_says_so_and_is_tried_again(machine, capsys, step, message):
    machine.codes[step] = 1
    code, steps = machine.run()
    assert (code, steps[-1]) == (1, step)
    err = capsys.readouterr().err
    assert err.startswith("error: Expected")
    assert message in err
    machine.codes.clear()
    code, steps = machine.run()
    assert code == 0
    assert steps[-2:] == ["install", "demo"]


@pytest.mark.parametrize("code", [1, 2, 130])
def test_the_exit_code_is_the_demos(machine, code):
    machine.codes["demo"] = code
    assert machine.run()[0] == code


@pytest.mark.parametrize("version", [(3, 10), (3, 14)])
def test_a_python_that_the_project_does_not_take_is_named(machine, capsys, version):
    machine.environment.VENV.mkdir()
    machine.version = version
    assert machine.run() == (1, [])
    err = capsys.readouterr().err
    assert f"Received: 3.{version[1]}" in err
    assert "Hint" in err


def test_a_missing_interpreter_has_no_version(machine, monkeypatch, tmp_path):
    monkeypatch.undo()
    assert machine.environment._version_of(tmp_path / "no python") is None
    assert machine.environment._version_of(sys.executable) == sys.version_info[:2]


def test_call_gives_the_exit_code(monkeypatch, machine):
    monkeypatch.undo()
    assert machine.environment.call([sys.executable, "-c", "import sys; sys.exit(3)"]) == 3
