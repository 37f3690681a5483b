"""What was to be reached, and whether it was. Pure."""

from dataclasses import dataclass
from statistics import median

MET, MISSED, UNKNOWN = "met", "missed", "unknown"
NOISE = ", within noise"  # the rounds do not agree whether it is met


@dataclass(frozen=True)
class Goal:
    what: str
    goal: str
    measured: str
    verdict: str


def goal(what, values, *, at_least=None, at_most=None, form="{:.2f}"):
    """`values`: one for each round, or none when it could not be measured. `form`: how one is
    written, its unit behind it."""
    unit = form.partition("}")[2]
    bound, sign = (at_most, "<=") if at_least is None else (at_least, ">=")
    return Goal(
        what,
        f"{sign} {bound:g}{unit}",
        spread(values, form) if values else "not measured",
        verdict(values, at_least=at_least, at_most=at_most),
    )


def spread(values, form):
    """The median, and the least and the most, or that it is a single run's."""
    middle = form.format(median(values))
    if len(values) == 1:
        return f"{middle} (one run)"
    number = form.partition("}")[0] + "}"
    return f"{middle} ({number.format(min(values))} – {number.format(max(values))})"


def verdict(values, *, at_least=None, at_most=None):
    if not values:
        return UNKNOWN

    def is_met(value):
        return value <= at_most if at_least is None else value >= at_least

    word = MET if is_met(median(values)) else MISSED
    return word if len(set(map(is_met, values))) == 1 else word + NOISE


def ratio(ours, theirs, figure):
    """Of each round: figure(ours) / figure(theirs)."""
    return [figure(mine) / figure(other) for mine, other in zip(ours, theirs, strict=True)]
