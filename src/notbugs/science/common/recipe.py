"""How a stage of the science trains its own models: the settings of training, less what such a stage decides itself."""

from pydantic import field_validator

from notbugs.training.loop import TrainSettings


class Recipe(TrainSettings):
    """Settings of one training; the seeds are the stage's, and nothing is chosen on validation."""

    @field_validator("seeds")
    @classmethod
    def _are_the_stages(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if seeds != (0,):
            raise ValueError("left out: the section's own seeds are used")
        return seeds

    @field_validator("early_stopping")
    @classmethod
    def _has_no_validation(cls, early_stopping: int | None) -> int | None:
        if early_stopping is not None:
            raise ValueError("null: these trainings run to their end")
        return early_stopping
