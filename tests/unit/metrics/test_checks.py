import pickle

import pytest

from pytest_mergegate.metrics import Undefined


def test_is_a_value_error_that_reads_as_its_message():
    with pytest.raises(ValueError, match=r"^all experts are one$") as caught:
        raise Undefined("equidistant", "all experts are one")
    assert caught.value.reason == "equidistant"
    assert str(caught.value) == "all experts are one"


def test_survives_the_trip_between_workers():
    copy = pickle.loads(pickle.dumps(Undefined("no_examples", "nothing to count")))
    assert (copy.reason, str(copy)) == ("no_examples", "nothing to count")
