from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The only folder that a fuzz test writes in."""
    return tmp_path_factory.mktemp("fuzz")
