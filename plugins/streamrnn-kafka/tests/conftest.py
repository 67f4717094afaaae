import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "tests"))
"""Where the disk that loses power lies."""


@pytest.fixture(autouse=True)
def _closed():
    yield
    from kafka_logs import close_all

    close_all()
