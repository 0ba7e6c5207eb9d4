import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import made_up  # noqa: E402


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The folder of a finished comparison, with its report."""
    from bareformers.report.html import build

    path = made_up.leave(tmp_path_factory.mktemp("comparison"), made_up.comparison())
    build(path)
    return path
