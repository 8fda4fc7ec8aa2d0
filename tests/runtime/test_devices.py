"""The branches that a GPU takes, taken on the CPU: the table of traits says that it is one."""

from importlib import import_module

import pytest
import torch
from torch import nn

from notbugs.attacks import AttackSettings, pgd
from notbugs.attacks.engine import Engine
from notbugs.attacks.gradients import look
from notbugs.construction.building import construct
from notbugs.construction.settings import InvertSettings, TargetSettings
from notbugs.data.batches import BatchReader
from notbugs.data.images import make_generator
from notbugs.evaluation import accuracy
from notbugs.evaluation.accuracy import adversarially_correct, engine_of, predict
from notbugs.evaluation.certificate import certify
from notbugs.evaluation.suite import audit
from notbugs.runtime.devices import (
    TRAITS,
    Traits,
    full_precision,
    has_bfloat16,
    is_out_of_memory,
    noise_generator,
    training_precision,
    traits,
    use_precision,
)
from notbugs.runtime.out_of_memory import BatchSplitter, MemoryExhaustedError
from notbugs.training.loop import train
from notbugs.training.settings import TrainSettings

LIKE_CUDA = Traits(
    attack_precision=torch.bfloat16,
    training_precision=torch.bfloat16,
    runs_ahead=True,
    own_random_numbers=True,
)


@pytest.fixture
def like_cuda(monkeypatch):
    monkeypatch.setitem(TRAITS, "cpu", LIKE_CUDA)


def test_unknown_devices_are_treated_as_the_cpu_is():
    assert traits(torch.device("meta")) == TRAITS["cpu"]
    assert traits(torch.device("cuda")).runs_ahead


@pytest.mark.parametrize(
    "settings",
    [
        InvertSettings(recipe="invert", model="standard", num_steps=20, step_size=0.1),
        TargetSettings(recipe="random_target", model="standard", eps=1.0, num_steps=10, step_size=0.25),
    ],
)
def test_construction_in_half_precision(like_cuda, monkeypatch, standard_model, digits, settings):
    """The images are others by rounding; what the source model says of them is not."""
    data = digits[0].select(slice(0, 100))
    half = construct(standard_model, data, **settings.arguments(), generator=make_generator(0))
    monkeypatch.setitem(TRAITS, "cpu", Traits())
    full = construct(standard_model, data, **settings.arguments(), generator=make_generator(0))
    assert torch.equal(half.data.labels, full.data.labels)
    assert torch.equal(half.start_index, full.start_index)
    assert not torch.equal(half.data.images, full.data.images)
    distance = (half.data.images - full.data.images).flatten(1).norm(dim=1)
    assert float(distance.median()) < 0.2
    if isinstance(settings, TargetSettings):
        reached = [
            float((predict(standard_model, made.data.images).argmax(dim=1) == made.data.labels).double().mean())
            for made in (half, full)
        ]
        assert abs(reached[0] - reached[1]) <= 0.03
        assert reached[1] > 0.5
        assert float((half.data.images - data.images).flatten(1).norm(dim=1).max()) <= 1.0 + 1e-5


def test_adversarial_training_in_half_precision_learns(like_cuda, digits, new_model):
    data = digits[0].select(slice(0, 400))
    model = new_model(data)
    attack = AttackSettings(eps=0.5, num_steps=2, random_start=True)
    config = TrainSettings(epochs=10, batch_size=32, lr=0.2, schedule="one_cycle", attack=attack, measure_every=10)
    records = train(
        model, data, **config.arguments(), generator=make_generator(1), validation=digits[1].select(slice(0, 100))
    )
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert records[-1]["validation_accuracy"] > 0.6
    assert records[-1]["train_loss"] < records[0]["train_loss"]


def test_evaluation_in_half_precision_is_judged_in_full(like_cuda, monkeypatch, standard_model, digits):
    data = digits[1].select(slice(0, 300))
    half = adversarially_correct(standard_model, data, eps=0.6, num_steps=60)
    monkeypatch.setitem(TRAITS, "cpu", Traits())
    full = adversarially_correct(standard_model, data, eps=0.6, num_steps=60)
    assert int((half != full).sum()) <= 3
    assert 0 < int(full.sum()) < 300


def test_what_half_precision_leaves_gets_a_second_look(like_cuda, monkeypatch, standard_model, digits):
    """An engine that finds nothing at all leaves everything to it."""
    data = digits[1].select(slice(0, 60))
    monkeypatch.setattr(accuracy, "LOOK_STEPS", 20)
    blunt = Blunted(standard_model).eval()
    assert engine_of(blunt, data).half_dtype is not None
    found = adversarially_correct(blunt, data, eps=0.6, num_steps=20)
    monkeypatch.setitem(TRAITS, "cpu", Traits())
    full = adversarially_correct(standard_model, data, eps=0.6, num_steps=20)
    clean = predict(standard_model, data).argmax(dim=1) == data.labels
    assert int((found != full).sum()) <= 1
    assert int(full.sum()) < int(clean.sum())


def test_an_engine_in_full_is_made_once(like_cuda, standard_model, digits):
    few = digits[1].images[:4]
    engine = Engine(standard_model, few)
    full = engine.in_full(few)
    assert full.half_dtype is None
    assert engine.in_full(few) is full
    assert full.in_full(few) is full
    assert full not in list(engine.modules())


@pytest.mark.parametrize(
    ("precision", "attack", "training"),
    [("float32", None, None), ("bfloat16", torch.bfloat16, torch.bfloat16), ("usual", None, None)],
)
def test_the_precision_of_attacks_and_training(precision, attack, training, standard_model, digits):
    cpu, images = torch.device("cpu"), digits[1].images[:4]
    use_precision(cpu, precision)
    assert (traits(cpu).attack_precision, traits(cpu).training_precision) == (attack, training)
    assert Engine(standard_model, images).half_dtype == attack
    with training_precision(cpu):
        assert standard_model(images).dtype == (training or torch.float32)
    assert predict(standard_model, images).dtype == torch.float32


def test_precisions_of_other_devices():
    cuda = torch.device("cuda")
    use_precision(cuda, "float32")
    assert traits(cuda).attack_precision is None
    assert traits(cuda).runs_ahead
    use_precision(cuda, "usual")
    assert traits(cuda).attack_precision == torch.float16
    use_precision(torch.device("meta"), "bfloat16")  # of a device that has no traits nothing is changed
    assert traits(torch.device("meta")).attack_precision is None


@pytest.mark.parametrize(
    ("capabilities", "has"), [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_f": True}, False)]
)
def test_bfloat16_by_the_processor_s_flags(capabilities, has, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_bfloat16(torch.device("cpu")) is has
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not has_bfloat16(torch.device("cpu"))
    assert not has_bfloat16(torch.device("mps"))


class Blunted(nn.Module):
    """A network whose attack in half precision finds nothing: its gradient vanishes where the image has few digits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x):
        if torch.is_autocast_enabled("cpu"):
            return self.network(x.detach()) + 0 * x.flatten(1).sum(dim=1, keepdim=True)
        return self.network(x)


@pytest.mark.parametrize(("blunt", "passes"), [(False, True), (True, False)])
def test_a_check_compares_half_precision_with_full(like_cuda, standard_model, digits, blunt, passes):
    model = Blunted(standard_model).eval() if blunt else standard_model
    few = digits[1].select(slice(0, 60))
    found = audit(model, few, eps=(0.6,), headline_eps=0.6, num_steps=10, headline_num_steps=20)
    (check,) = (check for check in found.checks if check.check == "half_precision_misses_nothing")
    assert check.passed == passes


def test_full_precision_leaves_no_reduced_products():
    operations = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    before = [operation.fp32_precision for operation in operations]
    model, x = nn.Linear(4, 3), torch.rand(2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x).dtype == torch.bfloat16
        with full_precision(x.device):
            assert [operation.fp32_precision for operation in operations] == ["ieee", "ieee"]
            assert model(x).dtype == torch.float32
        assert predict(model, x).dtype == torch.float32
    assert [operation.fp32_precision for operation in operations] == before


def test_noise_for_a_device_comes_from_its_own_generator(monkeypatch):
    host = make_generator(3)
    assert noise_generator(host, torch.device("cpu")) is host
    monkeypatch.setitem(TRAITS, "cpu", LIKE_CUDA)
    drawn = [torch.rand(4, generator=noise_generator(make_generator(3), torch.device("cpu"))) for _ in range(2)]
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0], torch.rand(4, generator=make_generator(3)))


def test_certificates_draw_from_it(like_cuda, standard_model, digits):
    settings = {"sigma": 0.1, "num_select": 20, "num_estimate": 50}
    first, second = (
        certify(standard_model, digits[1].images[:4], **settings, generator=make_generator(0)) for _ in range(2)
    )
    assert torch.equal(first.radius, second.radius)
    assert float(first.radius.max()) > 0


def test_a_dataset_stays_on_the_host_where_the_device_is_too_small(monkeypatch, digits):
    monkeypatch.setattr("notbugs.data.batches.free_memory", lambda device: 10**9)
    assert BatchReader(digits[0], torch.device("cpu")).resident
    monkeypatch.setattr("notbugs.data.batches.free_memory", lambda device: 10**5)
    assert not BatchReader(digits[0], torch.device("cpu")).resident


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("not enough memory"), False),
    ],
)
def test_allocation_failures_of_every_library_halve_the_batch(error, short, capfd):
    assert is_out_of_memory(error) == short
    sizes = []

    def work(rows):
        sizes.append(rows.stop - rows.start)
        if sizes[-1] > 2:
            raise error
        return sizes[-1]

    if not short:
        with pytest.raises(type(error)):
            BatchSplitter("a work").map(8, 8, work)
        return
    assert BatchSplitter("a work").map(8, 8, work) == [2, 2, 2, 2]
    assert sizes == [8, 4, 2, 2, 2, 2]
    with pytest.raises(MemoryExhaustedError, match="a work: out of memory with 3 images at a time"):
        BatchSplitter("a work", smallest=3).map(3, 3, work)


def test_an_engine_takes_the_traits_of_its_device(like_cuda, standard_model, digits):
    assert Engine(standard_model, digits[1].images[:4]).half_dtype == torch.bfloat16
    assert Engine(standard_model, digits[1].images[:4], half=None).half_dtype is None


class Rooted(nn.Module):
    """The same network; the square root has no derivative where a pixel is 0."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x.sqrt() ** 2)


@pytest.mark.parametrize(("rooted", "asked"), [(False, []), (True, [0])])
def test_a_host_that_runs_ahead_asks_an_engine_with_smooth_gradients_nothing(
    like_cuda, monkeypatch, standard_model, digits, rooted, asked
):
    """Asking whether a gradient is made of numbers makes the host wait, which costs a GPU a third of its training."""
    waits = []

    def following(*arguments, look_again, **others):
        waits.append(look_again)
        return look(*arguments, look_again=look_again, **others)

    monkeypatch.setattr(import_module("notbugs.attacks.pgd"), "look", following)
    model = Rooted(standard_model).eval() if rooted else standard_model
    images, labels = digits[1].images[:20], digits[1].labels[:20]
    engine = Engine(model, images[:8])
    assert engine.smooth != rooted
    found = pgd(engine, images, labels, eps=0.5, step_size=0.2, num_steps=4, judge=False)
    assert [step for step, waited in enumerate(waits) if waited] == asked
    assert torch.isfinite(found.x_adv).all()
    assert not torch.equal(found.x_adv, images)
