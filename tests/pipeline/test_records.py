import pyarrow as pa
import pytest

from notbugs.pipeline.evaluate.records import _array


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["x", "é", None, ""], pa.string()),
        ([1, None, -3], pa.int32()),
        ([0.1, None, 2], pa.float64()),
        ([True, None, False] * 5, pa.bool_()),
        ([None, None], pa.float64()),
        ([], pa.string()),
    ],
)
def test_a_column_is_pyarrows_own(values, kind):
    found = _array(values, kind)
    found.validate(full=True)
    assert found.equals(pa.array(values, kind))
