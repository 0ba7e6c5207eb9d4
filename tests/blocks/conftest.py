import pytest

from tests.training import tiny


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """Blocks of made-up text."""
    return tiny.text_data(tmp_path_factory.mktemp("cache"))
