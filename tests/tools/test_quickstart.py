"""The quickstart's set-up, with the commands recorded instead of run: no network, no venv."""

import ast
import importlib.util
import os
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[2] / "tools" / "quickstart.py"


class Machine:
    """A machine on which every command is written down; `codes` has those that fail."""

    def __init__(self, module, root, monkeypatch):
        self.module, self.commands, self.codes, self.version = module, [], {}, None
        self.interrupt = None
        monkeypatch.setattr(module, "ROOT", root)
        monkeypatch.setattr(module, "VENV", root / ".venv")
        for name in ("STAMP", "UNFINISHED"):
            monkeypatch.setattr(module, name, root / ".venv" / getattr(module, name).name)
        monkeypatch.setattr(module, "call", self.call)
        monkeypatch.setattr(module, "version_of", lambda python: self.version)
        monkeypatch.setattr(module.sys, "argv", ["quickstart.py"])

    def call(self, command, **options):
        words = [str(part) for part in command]
        kind = "venv" if "venv" in words else "install" if "install" in words else "demo"
        self.commands.append((kind, words, options))
        if kind == self.interrupt:
            raise KeyboardInterrupt
        if kind == "venv":
            self.module.VENV.mkdir(exist_ok=True)
            for path in self.module.VENV.iterdir():  # As --clear does.
                path.unlink()
            self.version = sys.version_info[:2]
        return self.codes.get(kind, 0)

    def run(self, *arguments):
        self.commands = []
        self.module.sys.argv[1:] = arguments
        code = self.module.main()
        return code, [kind for kind, *_ in self.commands]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("quickstart_tool", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("setup.cfg", "pyproject.toml"):
        (tmp_path / name).write_text(f"[{name}]")
    return Machine(module, tmp_path, monkeypatch)


def test_it_needs_nothing_but_the_standard_library():
    imported = {
        name.name.split(".")[0]
        for node in ast.walk(ast.parse(PATH.read_text()))
        if isinstance(node, ast.Import)
        for name in node.names
    }
    assert imported <= sys.stdlib_module_names


def test_a_fresh_machine_gets_all_three_steps(machine, capsys):
    assert machine.run("--seeds", "5") == (0, ["venv", "install", "demo"])
    (_, venv, _), (_, install, options), (_, demo, demo_options) = machine.commands
    assert "--clear" in venv
    assert install[-3:] == ["install", "--editable", ".[demo]"]
    assert options["cwd"] == machine.module.ROOT
    assert Path(demo[0]).parent == machine.module.venv_python().parent
    assert demo[1:] == ["demo", "--seeds", "5"]
    assert demo_options["env"]["TF_CPP_MIN_LOG_LEVEL"] == os.environ["TF_CPP_MIN_LOG_LEVEL"]
    out = capsys.readouterr().out
    assert [f"[{i}/3]" in out for i in (1, 2, 3)] == [True] * 3


def test_again_it_goes_straight_to_the_demo(machine):
    machine.run()
    assert machine.run() == (0, ["demo"])


@pytest.mark.parametrize("name", ["setup.cfg", "pyproject.toml"])
def test_it_installs_again_when_the_project_changed(machine, name):
    machine.run()
    (machine.module.ROOT / name).write_text("[changed]")
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
    (machine.module.ROOT / "setup.cfg").write_text("[changed]")
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
    machine.module.VENV.mkdir()
    machine.version = version
    assert machine.run() == (1, [])
    err = capsys.readouterr().err
    assert f"Received: 3.{version[1]}" in err
    assert "Hint" in err


def test_a_missing_interpreter_has_no_version(machine, monkeypatch, tmp_path):
    monkeypatch.undo()
    assert machine.module.version_of(tmp_path / "no python") is None
    assert machine.module.version_of(sys.executable) == sys.version_info[:2]


def test_call_gives_the_exit_code(monkeypatch, machine):
    monkeypatch.undo()
    assert machine.module.call([sys.executable, "-c", "import sys; sys.exit(3)"]) == 3
