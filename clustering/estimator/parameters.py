"""The parameters of GraphHDBSCAN as given in, checked ones out, or an error that says what to give instead."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

INTEGERS = {  # parameters that are whole numbers: least, most, and whether None is allowed
    "min_samples": (1, None, True), "min_cluster_size": (2, None, True), "granularity": (1, None, True),
    "max_cluster_size": (0, None, False), "layers": (1, 6, False), "n_neighbors": (1, None, True),
    "budget": (0, None, False), "seed": (0, None, False),
}  # fmt: skip
CHOICES = {
    "weights": ("diffused", "distance"), "selection": ("modularity", "eom", "leaf"),
    "preset": (None, "events", "topics"), "copies": ("fold", "weigh"),
}  # fmt: skip
USED_WITH = {  # the selections with which a parameter has a meaning
    "preset": ("modularity",), "granularity": ("modularity",), "epsilon": ("eom", "leaf"), "max_cluster_size": ("eom",),
}  # fmt: skip


@dataclass(frozen=True)
class Parameters:
    """The checked parameters of GraphHDBSCAN; whole numbers are int."""

    min_samples: int | None
    min_cluster_size: int | None
    weights: str
    selection: str
    preset: str | None
    granularity: int | None
    epsilon: float
    max_cluster_size: int
    allow_single_cluster: bool
    copies: str
    layers: int
    min_distance: float
    n_neighbors: int | None
    budget: int
    seed: int

    @classmethod
    def from_estimator(cls, estimator: Any) -> Parameters:
        """Read and check the parameters. Raises: ValueError with the parameter, its value and what to give instead."""
        values = {name: getattr(estimator, name) for name in cls.__dataclass_fields__}
        for name, known in CHOICES.items():
            value = values[name]
            if not (value is None or isinstance(value, str)) or value not in known:
                near = difflib.get_close_matches(value, [one for one in known if one], 1) if type(value) is str else []
                hint = f" ({near[0]!r} is near)" if near else ""
                raise ValueError(f"{name}={value!r} is not known; give one of {', '.join(map(repr, known))}{hint}")
        for name, (least, most, optional) in INTEGERS.items():
            if not (optional and values[name] is None):
                values[name] = _integer(name, values[name], least, most, optional)
        for name in ("epsilon", "min_distance"):
            value = values[name]
            if not _is_number(value) or not 0 <= value <= np.finfo(np.float32).max:
                raise ValueError(f"{name}={value!r} is no distance; give a finite number from 0 on")
            values[name] = float(value)
        if not isinstance(values["allow_single_cluster"], (bool, np.bool_)):
            raise ValueError(f"allow_single_cluster={values['allow_single_cluster']!r}; give True or False")
        for name, selections in USED_WITH.items():
            if values[name] and values["selection"] not in selections:
                needed = " or ".join(f"selection={one!r}" for one in selections)
                raise ValueError(
                    f"{name}={values[name]!r} has no meaning with selection={values['selection']!r}; leave it out, or "
                    f"give {needed}"
                )
        return cls(**values)


def _is_number(value: Any) -> bool:
    return isinstance(value, (Real, np.number)) and not isinstance(value, (bool, np.bool_, complex, np.complexfloating))


def _integer(name: str, value: Any, least: int, most: int | None, optional: bool) -> int:
    wanted = f"give a whole number from {least} {'on' if most is None else f'to {most}'}{', or None' * optional}"
    if not _is_number(value) or not abs(value) < math.inf or abs(value - round(value)) > 1e-9 * abs(value):
        near = _is_number(value) and abs(value) < math.inf
        hint = f"; {math.floor(value)} and {math.ceil(value)} are near" if near else ""
        raise ValueError(f"{name}={value!r} is no whole number; {wanted}{hint}")
    if abs(value) >= 1 << 63:
        raise ValueError(f"{name}={value!r} is more than 64 bits hold; lower it")
    value = round(value)  # 0.01 * 700 is a little more than 7
    if value < least or (most is not None and value > most):
        raise ValueError(f"{name}={value} is {'below' if value < least else 'above'} its range; {wanted}")
    return int(value)
