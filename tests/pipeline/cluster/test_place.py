"""How many stages at a time, which commands need no shell, and who gets which GPU."""

from types import SimpleNamespace

import pytest

from notbugs.pipeline.cluster import child, place, worker
from notbugs.pipeline.cluster.place import GIB, local_jobs
from notbugs.runtime.config import Runtime
from notbugs.runtime.errors import ConfigError
from tiny import SHARED


@pytest.fixture
def shared() -> Runtime:
    return Runtime(**{name: SHARED[name] for name in ("experiment", "seed", "num_threads", "device", "precision")})


@pytest.fixture
def machine(monkeypatch):
    """machine(processors, free GiB): what this machine seems to be."""

    def be(processors: int, free: float) -> None:
        monkeypatch.setattr("notbugs.runtime.machine.usable_processors", lambda: processors)
        monkeypatch.setattr(place, "_free_memory", lambda: int(free * GIB))

    return be


def test_a_slot_for_each_thread_that_memory_bears(shared, machine, tmp_path):
    machine(8, 100)
    assert local_jobs(tmp_path, shared, None) == (8, None)
    assert local_jobs(tmp_path, shared, 3) == (3, None)
    assert local_jobs(tmp_path, shared.model_copy(update={"num_threads": 3}), None) == (2, None)
    machine(8, 4.5)
    jobs, note = local_jobs(tmp_path, shared, None)
    assert jobs == 4
    assert note == "--jobs 4, not 8: a stage takes about 1.0 GiB, 4.5 are free"
    machine(8, 0.5)
    assert local_jobs(tmp_path, shared, None)[0] == 1


def test_large_data_count_eight_times_up_to_four_gib(shared, machine, tmp_path):
    shards = tmp_path / "data" / "train"
    shards.mkdir(parents=True)
    machine(8, 8)
    with (shards / "shard").open("wb") as file:
        file.truncate(GIB // 8)
    assert local_jobs(tmp_path, shared, None)[0] == 4  # 1 + 1 GiB
    with (shards / "shard").open("wb") as file:
        file.truncate(10 * GIB)
    assert local_jobs(tmp_path, shared, None)[0] == 1  # 1 + 4 GiB


def test_more_threads_than_processors_are_refused(shared, machine, tmp_path):
    machine(4, 100)
    with pytest.raises(
        ConfigError, match="--jobs 3: with num_threads = 2 that is 6 threads on 4 processors; at most 2"
    ):
        local_jobs(tmp_path, shared.model_copy(update={"num_threads": 2}), 3)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("notbugs train standard", ["train", "standard"]),
        ("notbugs sweep small --replace", ["sweep", "small", "--replace"]),
        ("notbugs train standard && rm x", None),
        ("notbugs train $NAME", None),
        ("notbugs train 'a b'", None),
        ("NOTBUGS_TRACKING=off notbugs prepare", None),
        ("python notbugs", None),
        ("notbugsx", None),
    ],
)
def test_plain_commands_of_the_package_need_no_shell(line, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert child.words_of_own_command(line) == words


def test_another_source_in_the_project_is_left_to_a_process_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").touch()
    (tmp_path / "src" / "notbugs" / "cli").mkdir(parents=True)
    (tmp_path / "src" / "notbugs" / "cli" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    assert child.words_of_own_command("notbugs train standard") is None


def test_code_that_changed_meanwhile_is_left_to_a_new_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(child, "IMPORTED", 0.0)
    assert child.words_of_own_command("notbugs train standard") is None


def test_each_stage_sees_a_gpu_of_its_own(monkeypatch):
    machine = SimpleNamespace(state=SimpleNamespace(total_resources={"GPU": 2}))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with worker._one_gpu(machine) as first, worker._one_gpu(machine) as second:
        assert [first, second] == [{"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "5"}]
    with worker._one_gpu(machine) as again:
        assert again == {"CUDA_VISIBLE_DEVICES": "3"}


@pytest.mark.parametrize("resources", [{}, {"GPU": 1}])
def test_with_one_gpu_nothing_is_said(resources):
    with worker._one_gpu(SimpleNamespace(state=SimpleNamespace(total_resources=resources))) as variables:
        assert variables == {}


@pytest.mark.parametrize(("visible", "count"), [("0,1", 2), ("", 0), ("2", 1)])
def test_visible_gpus_are_counted(monkeypatch, visible, count):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert place._gpus() == count
