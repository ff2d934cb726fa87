"""The learning rate at a step, as transformers gives it, and what a longer run makes of it."""

from math import cos, pi

from lab.core.settings import Train


def rate_at(train: Train, step: int) -> float:
    """The learning rate of the update after so many steps."""
    warmup = round(train.warmup_ratio * train.max_steps)
    if train.lr_scheduler_type == "constant":
        return train.learning_rate
    if step < warmup:
        return train.learning_rate * step / max(1, warmup)
    if train.lr_scheduler_type == "constant_with_warmup":
        return train.learning_rate
    done = min(1.0, (step - warmup) / max(1, train.max_steps - warmup))
    share = 1 - done if train.lr_scheduler_type == "linear" else 0.5 * (1 + cos(pi * done))
    return train.learning_rate * share


def planned_anew(before: Train, after: Train, step: int) -> str:
    """What a resume with another number of steps does to the learning rate; empty for nothing."""
    was, now = rate_at(before, step), rate_at(after, step)
    if before.max_steps == after.max_steps or abs(was - now) <= 0.01 * after.learning_rate:
        return ""
    return (f"The learning rate follows the schedule of {after.max_steps} steps from here on: at "
            f"step {step} it goes from {was:.2g} to {now:.2g}.")
