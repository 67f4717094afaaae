import pytest


@pytest.fixture(autouse=True)
def _closed():
    yield
    from kafka_logs import close_all

    close_all()
