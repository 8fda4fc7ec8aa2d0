"""The project's models in MLflow: logged once, with what was measured of them, and registered."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from notbugs.runtime.dvc_lock import md5
from notbugs.tracking.names import clean, clean_tags, logged_name, model_facts

_AT_ONCE = 1000
"""Numbers that MLflow takes at once."""
_LOADER = "notbugs.tracking.store"
"""Module whose `_load_pyfunc` opens a logged model: models of earlier versions name it, too."""
_FILE, _MD5, _TRAINED_BY = "notbugs.file", "notbugs.md5", "notbugs.trained_by"
"""Tags of a model: file of its weights in the project, their MD5 as dvc.lock has it, and the stage, `fit@det`."""
_VERSIONS = "mlflow.modelVersions"
"""Tag of a model that its page lists the registered versions by; JSON."""


class ModelStore:
    """The models of one experiment on a tracking server or in a database.

    Attributes:
        project: folder that the experiment's runs are of.
    """

    def __init__(self, client: Any, experiment_id: str, project: Path) -> None:
        self._client, self._experiment_id = client, experiment_id
        self.project = project

    def log_artifact(self, run_id: str, path: Path, folder: str | None, name: str | None = None) -> None:
        """Upload a file or folder, a file also under another name."""
        if path.is_dir():
            self._client.log_artifacts(run_id, str(path), "/".join(filter(None, [folder, path.name])))
        elif name is None:
            self._client.log_artifact(run_id, str(path), folder)
        else:
            with tempfile.TemporaryDirectory() as place:
                self._client.log_artifact(run_id, str(shutil.copyfile(path, Path(place) / name)), folder)

    def log_of_models(
        self,
        run_id: str,
        rows: Sequence[tuple[str, str, float, int]],
        dataset: Mapping[str, Any] | None,
        tags: Mapping[str, str],
    ) -> None:
        """Log numbers of models: (id, key, value, time in ms); a run has to own them, and has them, too.

        Args:
            dataset: that they were measured on: name, digest.
            tags: of the models.
        """
        from mlflow.entities import Metric

        place = {"dataset_name": dataset["name"][:500], "dataset_digest": dataset["digest"][:36]} if dataset else {}
        points = [Metric(clean(key), value, time, 0, model_id=model, **place) for model, key, value, time in rows]
        for first in range(0, len(points), _AT_ONCE):
            self._client.log_batch(run_id, metrics=points[first : first + _AT_ONCE])
        for model in dict.fromkeys(row[0] for row in rows):
            self._client.set_logged_model_tags(model, clean_tags(tags))

    def log_models(
        self, run_id: str, path: Path, place: str, *, address: str = "", params: Mapping[str, str] | None = None
    ) -> None:
        """Log the classifiers at `path`; what has no description beside it is logged as a plain file.

        Weights that MLflow has already, of the same stage and file, become models of this run, too.

        Args:
            run_id: of the run that they are of; empty: of none.
            place: of `path` in the project, which the models are named after.
            address: of the stage that trained them, such as "fit@det"; else they are the run's own.
            params: of the run; a model has them with its own seed and source seed.
        """
        address = address or run_id
        known = self.models(address, ready=False)
        for weights in sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]:
            file = (Path(place) / weights.relative_to(path)).as_posix()
            if weights.with_suffix(".json").exists():
                about = {_FILE: file, _MD5: md5(weights), _TRAINED_BY: address}
                own = {**{key: value for key, value in (params or {}).items() if key != "seeds"}, **model_facts(file)}
                self._log_model(run_id, weights, known.get((file, about[_MD5])), about, own)
            else:
                self.log_artifact(run_id, weights, "model")

    def register(
        self,
        weights: Path,
        file: str,
        address: str,
        name: str,
        alias: str | None,
        run: tuple[str, Mapping[str, str]] | None,
    ) -> tuple[str, bool, str | None]:
        """Make a classifier a version of a registered model, which is made if there is none.

        Args:
            weights: .safetensors file. file: its place in the project.
            address: of the stage that trained it.
            name: of the registered model.
            alias: that the version gets.
            run: id and params of a run that it is logged with, if MLflow has no such model.
        Returns: the version, whether it is new, and the version that had the alias.
        """
        from mlflow.exceptions import MlflowException

        address = address or file
        known = (file, md5(weights))
        if known not in self.models(address):
            run_id, params = run or ("", {})
            self.log_models(run_id, weights, file, address=address, params=params)
        model = self._client.get_logged_model(self.models(address)[known])
        try:
            before = dict(self._client.get_registered_model(name).aliases).get(alias)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            self._client.create_registered_model(name)
            before = None
        source = f"models:/{model.model_id}"
        versions = self._client.search_model_versions(f"name = '{name}'")
        there = next((one for one in versions if one.source == source), None)
        version = there or self._client.create_model_version(
            name, source, model.source_run_id, await_creation_for=0, model_id=model.model_id
        )
        if there is None:
            marks = [*json.loads(model.tags.get(_VERSIONS) or "[]"), {"name": name, "version": int(version.version)}]
            self._client.set_logged_model_tags(model.model_id, {_VERSIONS: json.dumps(marks)})
        if alias is not None:
            self._client.set_registered_model_alias(name, alias, version.version)
        return str(version.version), there is None, None if before is None else str(before)

    def models(self, address: str, *, ready: bool = True) -> dict[tuple[str, str], str]:
        """The models that a stage has trained: (file, MD5) -> id, the newest where there are several.

        Args:
            ready: without those whose upload was broken off.
        """
        found: dict[tuple[str, str], str] = {}
        token = None
        while True:
            page = self._client.search_logged_models(
                [self._experiment_id], filter_string=f"tags.`{_TRAINED_BY}` = '{address}'", page_token=token
            )
            for model in page:
                if not ready or model.status.name == "READY":
                    found.setdefault((model.tags.get(_FILE, ""), model.tags.get(_MD5, "")), model.model_id)
            token = page.token
            if not token:
                return found

    def _log_model(
        self, run_id: str, weights: Path, known: str | None, tags: Mapping[str, str], params: Mapping[str, str]
    ) -> None:
        """Log a classifier: weights (.safetensors) with its description (.json) beside it; nothing is pickled.

        `mlflow.pyfunc.log_model` does the same, but called again after it was broken off it makes a second model.

        Args:
            known: id of the model, if MLflow has one.
        """
        from mlflow.entities import LoggedModelOutput

        model = self._client.get_logged_model(known) if known else None
        if model is None:
            model = self._client.create_logged_model(
                self._experiment_id, logged_name(tags[_FILE]), run_id or None, dict(tags), dict(params), "classifier"
            )
        if model.status.name != "READY":
            self._upload_model(run_id, weights, model)
        if run_id:
            self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])

    def _upload_model(self, run_id: str, weights: Path, model: Any) -> None:
        import numpy as np
        from mlflow import pyfunc
        from mlflow.models import Model, infer_signature

        description = weights.with_suffix(".json")
        about = json.loads(description.read_text(encoding="utf-8"))
        images = np.zeros((1, *about["image_shape"]), "float32")
        logits = np.zeros((1, len(about["class_names"])), "float32")
        with tempfile.TemporaryDirectory() as folder:
            data, written = Path(folder) / "data", Path(folder) / "model"
            data.mkdir()
            shutil.copyfile(weights, data / "model.safetensors")
            shutil.copyfile(description, data / "model.json")
            pyfunc.save_model(
                written,
                loader_module=_LOADER,
                data_path=data,
                mlflow_model=Model(
                    model.artifact_location, run_id or None, model_uuid=model.model_id, model_id=model.model_id
                ),
                signature=infer_signature(images, logits),
                pip_requirements=[f"{library}=={version(library)}" for library in ("mlflow", "torch", "safetensors")],
            )
            self._client.log_model_artifacts(model.model_id, str(written))
        self._client.finalize_logged_model(model.model_id, "READY")
