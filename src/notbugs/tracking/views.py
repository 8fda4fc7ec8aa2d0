"""Saved views of MLflow's table of runs: which columns, filter and charts its page opens with.

MLflow keeps a view in a tag of the experiment, as JSON; its page lists them under Views, and an address that names one
opens with it. There is no call for it in MLflow's client, so the tags are written as the page writes them (3.17).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from notbugs.tracking.learning import QUANTITIES

VERSION = "2"
WRITTEN = "notbugs.views"
"""Tag of an experiment: the version of the views that it was given."""
ALL, BY_EPS = "notbugs-runs", "notbugs-eps"
"""Keys of the views, as an address has them."""
COLUMNS = {
    "params.`dataset.name`": 130,
    "params.`dataset.eps`": 95,
    "params.`dataset.num_steps`": 140,
    "metrics.`accuracy`": 90,
    "metrics.`accuracy_shifted`": 135,
    "metrics.`adversarial_accuracy`": 160,
    "metrics.`attack_success`": 120,
    "metrics.`still_y`": 90,
}
"""Of the table, with their widths in pixels: what was made, and what it did to accuracy."""
_FIRST, _LAST = ("0", "attributes.`Run Name`", "runDateAndNestInfo"), ("duration",)
"""Columns that MLflow's page has by itself."""
_TAG = "mlflow.sharedViewState."
_SAVED = 1767225600000
"""When the views say that they were saved: 2026, in milliseconds since 1970."""
_SECTION = "notbugs-section"


def views() -> dict[str, str]:
    """Tags of an experiment that hold the views."""
    return {
        f"{_TAG}{ALL}": _saved("All runs: eps and accuracy", _learning()),
        f"{_TAG}{BY_EPS}": _saved("Which eps did what: fits and trials", _by_eps()),
        WRITTEN: VERSION,
    }


def view_query(view: str) -> str:
    """What an address has to name for a view."""
    return f"viewStateShareKey={view}"


def view_tag(view: str) -> str:
    """The tag that holds a view."""
    return f"{_TAG}{view}"


def _saved(name: str, more: dict[str, Any]) -> str:
    """A view as the page saves one."""
    order = [*_FIRST, *COLUMNS, *_LAST]
    state = {"selectedColumns": list(COLUMNS), "columnOrder": order, "columnWidths": COLUMNS, **more}
    return json.dumps({"name": name, "createdAt": _SAVED, "updatedAt": _SAVED, "state": json.dumps(state)})


def _learning() -> dict[str, Any]:
    """Charts of learning, over epochs, of every run that has some."""
    more = {
        "scaleType": "linear",
        "xAxisKey": "step",
        "xAxisScaleType": "linear",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "lineSmoothness": 0,
        "useGlobalLineSmoothing": True,
        "useGlobalXaxisKey": False,
    }
    charts = []
    for quantity in QUANTITIES:
        curve = f"learning/{quantity}"
        own = {"metricKey": curve, "selectedMetricKeys": [curve]}
        charts.append(_chart("LINE", curve, quantity.replace("_", " "), {**own, **more}))
    return {**_shown("Learning curves", charts), "runsHiddenMode": "SHOW_ALL"}


def _shown(title: str, charts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One section of charts, and none that MLflow's page makes by itself."""
    section = {"uuid": _SECTION, "name": title, "display": True, "isReordered": False, "deleted": False}
    return {
        "compareRunCharts": list(charts),
        "compareRunSections": [{**section, "isGenerated": False}],
        "isAccordionReordered": True,
    }


def _chart(kind: str, name: str, title: str, more: Mapping[str, Any]) -> dict[str, Any]:
    """A chart of the section, of all runs that are shown."""
    common = {"metricSectionId": _SECTION, "deleted": False, "isGenerated": False, "runsCountToCompare": 100}
    return {"uuid": f"notbugs-{name}", "type": kind, **common, "displayName": title, **more}


def _by_eps() -> dict[str, Any]:
    """Runs that say what a dataset did to accuracy, and charts of it over eps."""
    measured = ("accuracy", "accuracy_shifted", "adversarial_accuracy", "still_y")
    eps = {"key": "dataset.eps", "type": "PARAM"}
    charts = [
        _chart("SCATTER", name, f"{name} over dataset.eps", {"xaxis": eps, "yaxis": {"key": name, "type": "METRIC"}})
        for name in measured
    ]
    return {
        "searchFilter": "metrics.accuracy >= 0 and params.`dataset.eps` LIKE '%'",
        "orderByKey": "params.`dataset.eps`",
        "orderByAsc": True,
        **_shown("By eps", charts),
        "runsHiddenMode": "SHOW_ALL",
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "param", "groupByData": "dataset.name"}],
        },
        "useGroupedValuesInCharts": False,
    }
