"""The methods by name."""

import pytest

from keras_kd import losses
from keras_kd.losses import registry


def test_a_method_is_made_by_its_name_with_its_options():
    loss = losses.get("dkd", beta=2.0, name="mine")
    assert (type(loss).__name__, loss.beta, loss.name) == ("DecoupledDistillation", 2.0, "mine")


def test_an_unknown_method_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"Received: 'magic'\. Hint: .*dkd.*rkd"):
        losses.get("magic")


def test_methods_stand_by_kind_and_name():
    kinds = [entry.kind for entry in losses.methods()]
    assert kinds == sorted(kinds, key=registry.KINDS.index)
    assert [entry.name for entry in losses.methods()] == list(losses.available())
    assert len(losses.available()) == len(set(losses.available()))


def test_every_method_says_where_it_was_published_and_what_it_is():
    for entry in losses.methods():
        assert entry.reference in entry.loss.__doc__ or entry.reference.split(",")[0] in (
            entry.loss.__doc__
        ), f"{entry.name} does not name {entry.reference}"
        assert f"| `{entry.name}` |" in losses.table()


@pytest.mark.parametrize(("name", "kind"), [("kd", "response"), ("new", "magic")])
def test_a_taken_name_or_an_unknown_kind_is_refused(name, kind):
    with pytest.raises(ValueError, match="Expected a free name and one of"):
        registry.method(name, title="", kind=kind, reference="")
