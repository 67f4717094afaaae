"""A bare `pytest` leaves out what is marked slow: an everyday run is to take less than three minutes."""

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave slow tests out, unless files, a mark or a part of a name say what is wanted."""
    asked = config.option.markexpr or config.option.keyword
    if asked or config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    items[:] = [item for item in items if not item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
