"""Training: it learns, repeats itself from its seed, resists attacks if taught to, and stops when told to."""

import copy
import inspect
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import notbugs.training.loop
from notbugs.attacks import AttackSettings, pgd
from notbugs.data.batches import augment
from notbugs.data.images import ImageData
from notbugs.evaluation.accuracy import adversarially_correct, predict
from notbugs.runtime.config import validate
from notbugs.runtime.devices import TRAITS, Traits
from notbugs.runtime.errors import ConfigError
from notbugs.training.checkpoints import kept_record
from notbugs.training.loop import TrainingError, train
from notbugs.training.settings import FitSettings, TrainSettings

ATTACK = AttackSettings(eps=0.5, num_steps=2, random_start=True)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def few(data: ImageData, count: int = 200) -> ImageData:
    return data.select(torch.arange(count))


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


# Learning


def test_it_learns(standard_model, digits):
    accuracy = (predict(standard_model, digits[1].images).argmax(dim=1) == digits[1].labels).double().mean()
    assert accuracy > 0.95


def test_adversarial_training_makes_robust(standard_model, robust_model, digits):
    """At L2 eps 0.5 at least 20 points more of the test images withstand."""
    attack = AttackSettings(eps=0.5, num_steps=10)
    standard, robust = (
        float(adversarially_correct(model, digits[1], **attack.arguments(), generator=generator()).double().mean())
        for model in (standard_model, robust_model)
    )
    assert robust - standard > 0.2
    assert (predict(robust_model, digits[1].images).argmax(dim=1) == digits[1].labels).double().mean() > 0.9


def test_one_step_by_hand(digits, new_model):
    """One epoch of one batch, plain SGD: θ ← θ − lr·(∇L + wd·θ), L with smoothed labels."""
    data = few(digits[0], 32)
    model = new_model(data, width=4)
    config = TrainSettings(
        epochs=1, batch_size=32, lr=0.05, momentum=0.0, weight_decay=0.01, schedule="constant", label_smoothing=0.2
    )
    expected = copy.deepcopy(model).train()
    log_probabilities = functional.log_softmax(expected(data.images), dim=1)
    wanted = 0.8 * functional.one_hot(data.labels, 10) + 0.02
    loss = -(wanted * log_probabilities).sum(dim=1).mean()
    loss.backward()
    record = train(model, data, **config.arguments(), generator=generator())[0]
    assert record["train_loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert record["train_accuracy"] == float((log_probabilities.argmax(dim=1) == data.labels).double().mean())
    for (name, after), before in zip(model.named_parameters(), expected.parameters(), strict=True):
        moved = before - 0.05 * (before.grad + 0.01 * before)
        torch.testing.assert_close(after, moved, rtol=1e-4, atol=1e-6, msg=name)


def test_adversarial_batches_are_the_worst_of_the_ball(standard_model, digits):
    data = few(digits[1], 100)
    attack = AttackSettings(eps=0.5, num_steps=7, step_size=0.1)
    standard_model.train()
    try:
        found = pgd(standard_model, data.images, data.labels, **attack.arguments(), generator=generator()).x_adv
        assert standard_model.training  # goes on training
    finally:
        standard_model.eval()
    assert ((found - data.images).flatten(1).norm(dim=1) <= 0.5 + 1e-5).all()
    before, after = (functional.cross_entropy(predict(standard_model, x), data.labels) for x in (data.images, found))
    assert after > 5 * before


def test_the_attack_is_trained_against(digits, new_model):
    """The loss of the first batch is that of its adversarial images, found in eval mode."""
    data = few(digits[0], 64)
    attack = AttackSettings(eps=1.0, num_steps=3)
    model = new_model(data, width=4)
    worst = pgd(copy.deepcopy(model).eval(), data.images, data.labels, **attack.arguments()).x_adv
    with torch.no_grad():
        expected = functional.cross_entropy(copy.deepcopy(model).train()(worst), data.labels)
        unperturbed = functional.cross_entropy(copy.deepcopy(model).train()(data.images), data.labels)
    config = TrainSettings(epochs=1, batch_size=64, lr=0.1, attack=attack)
    loss = train(model, data, **config.arguments(), generator=generator())[0]["train_loss"]
    assert loss == pytest.approx(float(expected), rel=1e-4)
    assert loss > 1.001 * float(unperturbed)


# Repeatable


def test_same_seed_gives_the_same_weights(digits, new_model):
    data = few(digits[0])
    config = TrainSettings(epochs=2, batch_size=32, lr=0.1, crop_padding=1, flip=True, attack=ATTACK)

    def trained(seed: int) -> dict[str, Tensor]:
        model = new_model(data, width=4)
        train(model, data, **config.arguments(), generator=generator(seed))
        return weights(model)

    first = trained(0)
    torch.manual_seed(77)  # the global stream plays no part
    assert same(first, trained(0))
    assert not same(first, trained(1))


def test_measuring_and_showing_do_not_change_the_weights(digits, new_model):
    data = few(digits[0])
    plain, watched = new_model(data, width=4), new_model(data, width=4)
    config = {"epochs": 3, "batch_size": 32, "lr": 0.1, "attack": ATTACK}
    train(plain, data, **TrainSettings(**config).arguments(), generator=generator())
    shown, records = [], []

    def progress(iterable, description, total=None):
        for item in iterable:
            shown.append((description, item))
            yield item

    returned = train(
        watched,
        data,
        **TrainSettings(**config, validation_attack=ATTACK).arguments(),
        generator=generator(),
        validation=few(digits[1], 50),
        on_epoch=records.append,
        progress=progress,
        description="here",
    )
    assert same(weights(plain), weights(watched))
    assert shown == [("here, epochs", 1), ("here, epochs", 2), ("here, epochs", 3)]
    assert returned == records
    assert not watched.training


# Learning curves


def test_records_say_what_wasmeasure_validationd(digits, new_model):
    data, validation = few(digits[0]), few(digits[1], 100)
    model = new_model(data, width=4)
    config = TrainSettings(
        epochs=5, batch_size=64, lr=0.1, measure_every=2, validation_attack=AttackSettings(eps=0.3, num_steps=3)
    )
    records = train(model, data, **config.arguments(), generator=generator(), validation=validation)
    assert [record["epoch"] for record in records] == [1, 2, 3, 4, 5]
    measured = [record["validation_accuracy"] is not None for record in records]
    assert measured == [False, True, False, True, True]
    last, called = records[-1], predict(model, validation.images).argmax(dim=1)
    assert last["validation_accuracy"] == float((called == validation.labels).double().mean())
    assert last["validation_accuracy_shifted"] == float((called == (validation.labels + 1) % 10).double().mean())
    withstood = adversarially_correct(model, validation, **config.validation_attack.arguments(), generator=generator())
    assert last["validation_adversarial_accuracy"] == float(withstood.double().mean())
    assert 0 < last["train_accuracy"] <= 1


def test_without_validation_nothing_ismeasure_validationd(digits, new_model):
    records = train(
        new_model(digits[0], width=4),
        few(digits[0], 64),
        **TrainSettings(epochs=1, batch_size=64, lr=0.1, validation_attack=ATTACK).arguments(),
        generator=generator(),
    )
    assert records[0]["validation_accuracy"] is None
    assert records[0]["validation_adversarial_accuracy"] is None


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "step", "milestones": [2, 4]}, [0.1, 0.1, 0.01, 0.01, 0.001]),
        ({"schedule": "constant"}, [0.1] * 5),
        ({"schedule": "step"}, [0.1] * 5),
        ({"schedule": "constant", "optimizer": "adamw"}, [0.1] * 5),
    ],
)
def test_learning_rates(digits, new_model, settings, expected):
    data = few(digits[0], 40)
    config = TrainSettings(epochs=5, batch_size=20, lr=0.1, **settings)
    records = train(new_model(data, width=4), data, **config.arguments(), generator=generator())
    assert [record["lr"] for record in records] == pytest.approx(expected)


def test_one_cycle_rises_to_lr_and_falls_to_nothing(digits, new_model, monkeypatch):
    seen = []
    plain_step = torch.optim.SGD.step

    def step(self, *arguments, **keywords):
        seen.append(self.param_groups[0]["lr"])
        return plain_step(self, *arguments, **keywords)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    data = few(digits[0], 101)  # the last batch would be one image: BatchNorm could not take it
    config = TrainSettings(epochs=10, batch_size=20, lr=0.1, schedule="one_cycle")
    train(new_model(data, width=4), data, **config.arguments(), generator=generator())
    assert len(seen) == 50
    assert max(seen) == pytest.approx(0.1)
    assert 10 <= seen.index(max(seen)) <= 20
    assert seen[0] == pytest.approx(0.1 / 25)
    assert seen[-1] < 1e-4
    assert "momentum" in torch.optim.SGD([torch.zeros(1)], lr=1.0).param_groups[0]


@pytest.mark.parametrize("settings", [{"nesterov": True}, {"optimizer": "adamw", "lr": 0.01}])
def test_optimisers_learn(digits, new_model, settings):
    data = few(digits[0])
    config = TrainSettings(**{"epochs": 6, "batch_size": 32, "lr": 0.05, **settings})
    assert train(new_model(data), data, **config.arguments(), generator=generator())[-1]["train_accuracy"] > 0.9


# Early stopping


@pytest.mark.parametrize("adversarial", [False, True])
def test_early_stopping_restores_the_best(digits, new_model, monkeypatch, adversarial):
    """Chosen by clean accuracy; by adversarial accuracy if trained adversarially."""
    rising_then_falling, falling = [0.1, 0.5, 0.4, 0.5, 0.3, 0.2], [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    chosen, other = ("validation_adversarial_accuracy", "validation_accuracy")
    if not adversarial:
        chosen, other = other, chosen
    turn = iter(zip(rising_then_falling, falling, strict=True))

    def measure(model, validation, settings, record):
        record[chosen], record[other] = next(turn)

    monkeypatch.setattr(notbugs.training.loop, "measure_validation", measure)
    data = few(digits[0], 64)
    model, states = new_model(data, width=4), []
    config = TrainSettings(
        epochs=6,
        batch_size=32,
        lr=0.1,
        early_stopping=3,
        attack=ATTACK if adversarial else None,
        validation_attack=ATTACK,
    )
    records = train(
        model,
        data,
        **config.arguments(),
        generator=generator(),
        validation=data,
        on_epoch=lambda record: states.append(weights(model)),
    )
    assert len(records) == 5  # best in epoch 2, then three without a better one
    assert same(weights(model), states[1])
    assert not same(states[1], states[4])
    assert kept_record(records, config.early_stopping, adversarial=config.attack is not None)["epoch"] == 2


def test_without_early_stopping_the_last_weights_stay(digits, new_model):
    data = few(digits[0], 64)
    model, states = new_model(data, width=4), []
    config = TrainSettings(epochs=4, batch_size=32, lr=0.5)
    train(
        model,
        data,
        **config.arguments(),
        generator=generator(),
        validation=data,
        on_epoch=lambda record: states.append(weights(model)),
    )
    assert len(states) == 4
    assert same(weights(model), states[-1])


# Augmentation


def test_crops_come_from_the_padded_image():
    images = 0.1 + 0.9 * torch.rand(200, 2, 4, 5, generator=generator())
    found = augment(images, 2, False, generator(1))
    padded = functional.pad(images, [2, 2, 2, 2])
    places = set()
    for image, source in zip(found, padded, strict=True):
        windows = {(i, j): source[:, i : i + 4, j : j + 5] for i in range(5) for j in range(5)}
        fitting = [place for place, window in windows.items() if torch.equal(window, image)]
        assert len(fitting) == 1
        places.add(fitting[0])
    assert places == {(i, j) for i in range(5) for j in range(5)}  # every offset occurs


def test_flips_mirror_half_of_the_images():
    images = torch.rand(1000, 1, 2, 3, generator=generator())
    found = augment(images, 0, True, generator(1))
    mirrored = (found == images.flip(3)).flatten(1).all(dim=1)
    kept = (found == images).flatten(1).all(dim=1)
    assert torch.equal(mirrored, ~kept)
    assert abs(float(mirrored.double().mean()) - 0.5) <= 4 * math.sqrt(0.25 / 1000)


@pytest.mark.parametrize(("padding", "flip"), [(1, False), (0, True), (1, True)])
def test_generator_decides_the_augmentation(padding, flip):
    images = torch.rand(30, 1, 4, 4, generator=generator())
    copied = images.clone()
    first, again, other = (augment(images, padding, flip, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == images.shape
    assert torch.equal(images, copied)


def test_no_augmentation_changes_nothing():
    images = torch.rand(3, 1, 4, 4, generator=generator())
    assert torch.equal(augment(images, 0, False, generator()), images)


# Errors


def test_a_loss_that_is_no_number_names_the_epoch(digits, new_model):
    data = few(digits[0], 64)
    model = new_model(data, width=4)

    def break_it(record):
        if record["epoch"] == 2:
            with torch.no_grad():
                model.head.weight.fill_(math.nan)

    config = TrainSettings(epochs=5, batch_size=32, lr=0.1)
    with pytest.raises(
        TrainingError, match="fit rand, seed 1: the loss is nan in epoch 3, step 1 of 2; a smaller lr may help"
    ):
        train(
            model, data, **config.arguments(), generator=generator(), on_epoch=break_it, description="fit rand, seed 1"
        )


def test_too_few_examples_are_refused(digits, new_model):
    with pytest.raises(ValueError, match="training needs at least 2 examples, not 1"):
        train(new_model(digits[0], width=4), few(digits[0], 1), epochs=1, lr=0.1, generator=generator())


def test_the_kept_record_is_the_last_without_early_stopping(digits, new_model):
    data = few(digits[0], 64)
    config = TrainSettings(epochs=3, batch_size=32, lr=0.1)
    records = train(new_model(data, width=4), data, **config.arguments(), generator=generator(), validation=data)
    assert kept_record(records, config.early_stopping, adversarial=config.attack is not None) is records[-1]


def test_early_stopping_without_validation_is_refused(digits, new_model):
    config = TrainSettings(epochs=1, lr=0.1, early_stopping=1)
    with pytest.raises(ValueError, match="early_stopping needs validation images"):
        train(new_model(digits[0], width=4), few(digits[0]), **config.arguments(), generator=generator())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.0}, r"train\.standard\.lr = 0\.0: must be greater than 0"),
        ({"lr": math.inf}, r"train\.standard\.lr = inf: must be a finite number"),
        ({"epochs": 0}, r"train\.standard\.epochs = 0: must be greater than or equal to 1"),
        ({"batch_size": 1}, r"train\.standard\.batch_size = 1: must be greater than or equal to 2"),
        ({"seeds": []}, r"train\.standard\.seeds = \[\]"),
        ({"seeds": [1, 1]}, "must be seeds that differ from each other"),
        ({"optimizer": "adam"}, "must be 'sgd' or 'adamw'"),
        ({"momentum": 1.0}, r"momentum = 1\.0: must be less than 1"),
        ({"nesterov": True, "momentum": 0.0}, "must be false where momentum is 0"),
        ({"schedule": "one_cycle", "milestones": [3]}, "must be empty where schedule is one_cycle"),
        ({"schedule": "cosine"}, "must be 'step', 'one_cycle' or 'constant'"),
        ({"label_smoothing": 1.0}, r"label_smoothing = 1\.0: must be less than 1"),
        ({"early_stopping": 0}, "early_stopping = 0: must be greater than or equal to 1"),
        (
            {"early_stopping": 2, "attack": {"eps": 0.5, "num_steps": 2}},
            "must be given where early_stopping and attack are",
        ),
        ({"attack": {"eps": -1.0, "num_steps": 2}}, r"train\.standard\.attack\.eps = -1\.0: must be greater than"),
        ({"attack": {"eps": 1.0, "num_steps": 2, "nrom": "l2"}}, r"attack\.nrom: unknown key; did you mean norm\?"),
        ({"crop_paddin": 1}, r"train\.standard\.crop_paddin: unknown key; did you mean crop_padding\?"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        validate({"epochs": 1, "lr": 0.1, **change}, "train.standard", TrainSettings)


def test_plain_arguments_train_as_settings_do(digits, new_model):
    """What a notebook leaves out is what params.yaml leaves out."""
    data = few(digits[0], 64)
    config = TrainSettings(epochs=1, lr=0.1, attack=AttackSettings(eps=0.5, num_steps=2))
    by_settings, by_hand = new_model(data, width=4), new_model(data, width=4)
    train(by_settings, data, **config.arguments(), generator=generator())
    train(by_hand, data, epochs=1, lr=0.1, attack={"eps": 0.5, "num_steps": 2}, generator=generator())
    assert same(weights(by_settings), weights(by_hand))
    defaults = {name: parameter.default for name, parameter in inspect.signature(train).parameters.items()}
    left_out = TrainSettings(epochs=1, lr=0.1).arguments()
    assert {**left_out, **defaults, "epochs": 1, "lr": 0.1} == {**defaults, **left_out}


def test_fits_are_filtered_by_default():
    assert FitSettings(epochs=1, lr=0.1).still_y
    with pytest.raises(ConfigError, match="unknown key"):
        validate({"epochs": 1, "lr": 0.1, "still_y": True}, "train.standard", TrainSettings)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_training_in_reduced_precision_learns(monkeypatch, digits, new_model, device):
    monkeypatch.setitem(TRAITS, "cpu", Traits(training_precision=torch.bfloat16))
    data = few(digits[0])
    model = new_model(data).to(device)
    config = TrainSettings(epochs=20, batch_size=32, lr=0.05, crop_padding=1, validation_attack=ATTACK)
    records = train(model, data, **config.arguments(), generator=generator(), validation=few(digits[1], 50))
    assert {parameter.device.type for parameter in model.parameters()} == {device}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert records[-1]["train_accuracy"] > 0.85
