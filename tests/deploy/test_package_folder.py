"""Writing a folder: what is refused, what a failure leaves, what an earlier package leaves."""

import errno
import json
import os

import pytest

from keras_kd.deploy.package import folder as folder_module
from keras_kd.deploy.package.folder import check_free, write_folder


def files(**contents):
    """Files with their manifest; "__" stands for "/"."""
    named = {name.replace("__", "/"): text.encode() for name, text in contents.items()}
    return named | {"manifest.json": json.dumps({"files": [*named, "manifest.json"]}).encode()}


def tree(folder):
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_new_folder_with_its_parents(tmp_path):
    target = tmp_path / "a" / "odd näme 1"
    written = write_folder(target, files(one="1", src__two="2"))
    assert [path.name for path in written] == ["one", "two", "manifest.json"]
    assert tree(target)["src/two"] == "2"
    assert [path.name for path in target.parent.iterdir()] == ["odd näme 1"]


def test_an_empty_folder_will_do(tmp_path):
    write_folder(tmp_path, files(one="1"))
    assert (tmp_path / "one").read_text() == "1"


def test_a_folder_that_is_not_empty_is_refused_and_unchanged(tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ValueError, match=r"Expected a folder that is new or empty.*Hint: .*force"):
        write_folder(tmp_path, files(one="1"))
    assert tree(tmp_path) == {"mine": "mine"}


@pytest.mark.parametrize("force", [False, True])
def test_a_file_is_refused(tmp_path, force):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="Expected a folder to write to"):
        check_free(tmp_path / "file", force=force)


def test_force_replaces_an_earlier_package_and_keeps_other_files(tmp_path):
    target = tmp_path / "firmware"
    write_folder(target, files(README="old", src__old="old", src__both="old"))
    (target / "src" / "mine").write_text("mine")
    write_folder(target, files(README="new", src__both="new"), force=True)
    found = tree(target)
    del found["manifest.json"]
    assert found == {"README": "new", "src/both": "new", "src/mine": "mine"}


@pytest.mark.parametrize(
    "manifest", ['{"files": ["../outside", "/etc/hostname"]}', "no JSON", "[]", '{"files": 3}']
)
def test_a_manifest_names_nothing_outside_the_folder(tmp_path, manifest):
    outside = tmp_path / "outside"
    outside.write_text("mine")
    target = tmp_path / "firmware"
    target.mkdir()
    (target / "manifest.json").write_text(manifest)
    write_folder(target, files(one="1"), force=True)
    assert outside.read_text() == "mine"


def test_a_full_disk_leaves_the_earlier_package_whole(tmp_path, monkeypatch):
    target = tmp_path / "firmware"
    write_folder(target, files(one="old", two="old"))
    before = tree(target)
    write = folder_module.write_atomically

    def full(path, content):
        if path.name == "two":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(folder_module, "write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        write_folder(target, files(one="new", two="new"), force=True)
    assert tree(target) == before
    with pytest.raises(OSError, match="No space left"):
        write_folder(tmp_path / "new", files(one="new", two="new"))
    assert [path.name for path in tmp_path.iterdir()] == ["firmware"]
