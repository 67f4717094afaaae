import pytest
from streamrnn_example import LeakyConfig, build, describe

from streamrnn.backend import TensorSpec
from streamrnn.conformance import BackendConformance, check_light_import
from streamrnn.context import Context
from streamrnn.errors import OptionError

OF_ONE_NUMBER = {"x": TensorSpec("x", (1,))}
ARGUMENTS = (LeakyConfig(decays=[0.5, 0.9, 0.99]), OF_ONE_NUMBER, Context())


class TestLeaky(BackendConformance):
    @pytest.fixture
    def backend(self):
        return build(*ARGUMENTS)

    @pytest.fixture
    def description(self):
        return describe(*ARGUMENTS)


@pytest.mark.parametrize(
    "given", [{}, {"x": TensorSpec("x", (2,))}, OF_ONE_NUMBER | {"z": TensorSpec("z", (1,))}]
)
def test_it_takes_one_number(given):
    with pytest.raises(
        OptionError, match=r"type: leaky needs one input of one number in event.inputs, found"
    ):
        describe(ARGUMENTS[0], given, Context())


def test_it_is_light():
    check_light_import("streamrnn_example")
