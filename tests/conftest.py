"""What the tests share: scikit-learn's digits, and a standard and a robust small CNN trained on them in seconds."""

import gc
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from sklearn.datasets import load_digits
from torch import nn

import warm
from notbugs.attacks import AttackSettings
from notbugs.data.images import ImageData, make_generator, stratified_split
from notbugs.evaluation.levels import LEVELS
from notbugs.models import create_model, set_normalisation
from notbugs.models.base import Classifier
from notbugs.pipeline.running import context
from notbugs.runtime import registry
from notbugs.runtime.devices import use_precision
from notbugs.training.loop import train
from notbugs.training.settings import TrainSettings
from projects import forget_own_modules, leave_blank, made_once, make_project, run

QUICK = LEVELS["quick"]

settings.register_profile("quick", deadline=None, derandomize=True, max_examples=20)
settings.register_profile("thorough", settings.get_profile("quick"), max_examples=60)
settings.load_profile("quick")


def pytest_configure(config: pytest.Config) -> None:
    """Begin the server of warm commands; the processes of pytest-xdist use that of the one which started them."""
    # A shell without job control starts what it puts in the background with Ctrl-C ignored, which children inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warm.hurry_sqlite()
    warm.hurry_evaluation()
    if not hasattr(config, "workerinput") and sys.platform == "linux":
        config.add_cleanup(warm.begin())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the pipeline, which takes longest; skip what needs a CUDA device where there is none."""
    items.sort(key=lambda item: item.get_closest_marker("pipeline") is None)
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_collection_finish() -> None:
    """What has been imported and collected stays: to look through it for garbage takes a twentieth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def pytest_unconfigure() -> None:
    """Extensions that count what they leave behind are not to see what was never let go."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # rounding depends on it


@pytest.fixture(autouse=True)
def _one_thread_again() -> Iterator[None]:
    """Whatever a stage or a command asked for: two threads on tiny images wait for each other."""
    yield
    torch.set_num_threads(1)
    for kind in ("cpu", "cuda"):
        use_precision(torch.device(kind), "usual")


@pytest.fixture(autouse=True)
def _no_measured_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `precision: auto` means does not depend on the processor, but for what another process does."""
    monkeypatch.setattr(context, "has_bfloat16", lambda device: False)


@pytest.fixture
def warm_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python as the package starts it is a fork of one that has imported everything."""
    monkeypatch.setattr(sys, "executable", warm.program("python"))


@pytest.fixture(scope="module")
def whole_level() -> Iterator[None]:
    """The level `quick` as it is; elsewhere its attacks have few steps, see `warm.hurry_evaluation`."""
    hurried = LEVELS["quick"]
    LEVELS["quick"] = QUICK
    yield
    LEVELS["quick"] = hurried


@pytest.fixture
def blank_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """See `leave_blank`."""
    leave_blank(monkeypatch)


@pytest.fixture
def fresh_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of the user's own is found, named or imported yet; what a test does of it is undone."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(registry, "_folders", [])
    monkeypatch.setattr(registry, "_allowed", set())
    forget_own_modules()
    yield
    forget_own_modules()


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all workers of pytest-xdist share."""
    own = tmp_path_factory.getbasetemp()
    return own if worker_id == "master" else own.parent


@pytest.fixture(scope="session")
def finished_project(common: Path) -> Path:
    """A project on which a tiny pipeline has run once, the same for all workers of pytest-xdist: not to be changed."""

    def make(folder: Path) -> None:
        done = run(make_project(folder), "dvc", "repro")
        assert "Traceback" not in done.stderr + done.stdout
        assert "Warning" not in done.stderr + done.stdout
        run(folder, "notbugs", "track")

    return made_once(common / "finished", make)


@pytest.fixture(scope="session")
def digits() -> tuple[ImageData, ImageData]:
    """The 1,797 digits, split 80:20 by class into training and test images (N, 1, 8, 8)."""
    raw = load_digits()
    images = torch.from_numpy(raw.images / 16.0).float()[:, None]
    data = ImageData(images, torch.from_numpy(raw.target).long(), tuple(map(str, raw.target_names)))
    kept, held = stratified_split(data.labels, 0.2, make_generator(0, "split"))
    return data.select(kept), data.select(held)


@pytest.fixture(scope="session")
def new_model() -> Callable[..., Classifier]:
    """Build an untrained classifier: new_model(data, seed=0, architecture="small_cnn", width=16)."""

    def build(data: ImageData, seed: int = 0, architecture: str = "small_cnn", width: int | None = 16) -> Classifier:
        shape = tuple(data.images.shape[1:])
        model = create_model(
            architecture, shape, data.class_names, width=width, generator=make_generator(seed, "weights")
        )
        set_normalisation(model, data.images)
        return model

    return build


@pytest.fixture(scope="session")
def trained_once(
    digits: tuple[ImageData, ImageData], new_model: Callable[..., Classifier], common: Path
) -> Callable[..., Classifier]:
    """Train a small CNN, or take the one of these settings that another worker of pytest-xdist trained."""

    def trained(name: str, **settings: Any) -> Classifier:
        def make(folder: Path) -> None:
            model = new_model(digits[0])
            config = TrainSettings(epochs=8, batch_size=64, lr=0.1, schedule="one_cycle", **settings)
            train(model, digits[0], **config.arguments(), generator=make_generator(0, name))
            torch.save(model.state_dict(), folder / "model.pt")

        model = new_model(digits[0])
        model.load_state_dict(torch.load(made_once(common / name, make) / "model.pt"))
        return model.eval()

    return trained


@pytest.fixture(scope="session")
def standard_model(trained_once: Callable[..., Classifier]) -> Classifier:
    """Small CNN trained as usual. Shared by all tests: not to be changed."""
    return trained_once("standard")


@pytest.fixture(scope="session")
def robust_model(trained_once: Callable[..., Classifier]) -> Classifier:
    """Small CNN trained adversarially at L2 eps 0.75. Shared by all tests: not to be changed."""
    return trained_once("robust", attack=AttackSettings(eps=0.75, num_steps=3, step_size=0.3))


@pytest.fixture
def busy_model() -> nn.Module:
    """An untrained float64 net with BatchNorm, dropout, mixed modes and a frozen layer, for (N, 2, 6, 6)."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(5)
        model = nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.Tanh(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(6 * 36, 12),
            nn.BatchNorm1d(12),
            nn.Tanh(),
            nn.Linear(12, 4),
        ).double()
        model.train()
        with torch.no_grad():
            model(torch.rand(64, 2, 6, 6, dtype=torch.float64))  # gives the BatchNorms some statistics
    model[1].eval()
    model[5].requires_grad_(False)
    return model
