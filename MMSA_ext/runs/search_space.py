"""What a search tries: choices and ranges of configuration keys, from MMSA's files or a user."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MMSA_ext import mmsa_bridge
from MMSA_ext.config.resolve import checked, get_config_tune, merge, unread
from MMSA_ext.errors import ConfigError
from MMSA_ext.json_files import json_or_text, parse_json

if TYPE_CHECKING:
    import optuna

__all__ = ["Choices", "Range", "Space", "given_space", "point", "shipped_space", "usable"]

logger = logging.getLogger("MMSA")

GRAMMAR = (
    "write choices, 8,16,32 or a JSON list [8, 16, 32]; or a range of numbers, 1..4 (whole), "
    "0.0..0.5, 1e-5..1e-3:log"
)
_WHOLE = re.compile(r"[+-]?\d+")
# Of a range of whole numbers that is no longer, all are checked before the search.
_FEW = 16


@dataclass(frozen=True)
class Choices:
    """Values of which one is drawn: whatever a configuration may hold."""

    values: tuple[Any, ...]

    def draw(self, trial: optuna.Trial, key: str) -> Any:
        """One of them; a dashboard shows numbers and texts as they are, all else as JSON."""
        plain = all(isinstance(v, str) for v in self.values) or all(map(_is_number, self.values))
        labels = list(self.values) if plain else [json.dumps(v, default=str) for v in self.values]
        return self.values[labels.index(trial.suggest_categorical(key, labels))]

    def some(self) -> Sequence[Any]:
        """What is checked before a search: all."""
        return self.values

    def plain(self) -> Any:
        """What it is, as JSON."""
        return list(self.values)


@dataclass(frozen=True)
class Range:
    """Numbers between two, which are drawn too.

    Attributes:
        low: The lower; whole numbers are drawn if both are.
        high: The higher.
        log: Draw by order of magnitude.
    """

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether whole numbers are drawn."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def draw(self, trial: optuna.Trial, key: str) -> Any:
        """One of them."""
        suggest: Any = trial.suggest_int if self.whole else trial.suggest_float
        return suggest(key, self.low, self.high, log=self.log)

    def some(self) -> Sequence[Any]:
        """What is checked before a search: the ends, and what lies between."""
        if self.whole and self.high - self.low < _FEW:
            return range(int(self.low), int(self.high) + 1)
        share = 0.3819660113  # no round number: a key of whole numbers is to refuse it
        between: float = self.low + share * (self.high - self.low)
        if self.log:
            between = math.exp(math.log(self.low) + share * math.log(self.high / self.low))
        return (self.low, round(between) if self.whole else between, self.high)

    def plain(self) -> Any:
        """What it is, as JSON."""
        return f"{self.low}..{self.high}{':log' * self.log}"


Space = dict[str, Choices | Range]


def shipped_space(model_name: str, dataset_name: str, config_file: str | Path | None = "") -> Space:
    """Choices of each tuned key, from `debugParams` of MMSA's tuning file.

    Nested keys, two levels as in MMSA, are joined by a dot. Empty if the model has no choices.

    Raises:
        ConfigError: If the model, the data set or the file is not known.
    """
    args = get_config_tune(model_name, dataset_name, config_file, random_choice=False)
    space: Space = {}
    for key in args.d_paras:
        if isinstance(args[key], dict):
            space.update({f"{key}.{inner}": Choices(tuple(v)) for inner, v in args[key].items()})
        elif isinstance(args[key], list | tuple):
            space[key] = Choices(tuple(args[key]))
    return space


def given_space(space: Any, config: Mapping[str, Any] | None) -> Space:
    """A user's search space.

    Args:
        space: By key, nested ones joined by a dot or in dictionaries: a list of choices, or a text
            as after `--space KEY=`.
        config: The user's overrides, which are not searched.

    Raises:
        ConfigError: If there is no key, a key has no value or one value, or is given twice.
    """
    if not isinstance(space, Mapping) or not space:
        raise ConfigError(
            f"space is {space!r:.80}; give a dictionary of keys and what to search, such as "
            '{"learning_rate": "1e-5..1e-3:log", "batch_size": [8, 16]}.'
        )
    found: Space = {}
    for key, given in _leaves(space):
        if key in found:
            raise ConfigError(f"space: {key} is there twice; leave one out.")
        found[key] = _parsed(given, f"space {key}")
    if "KeyEval" in found:
        raise ConfigError(
            "space: KeyEval is what trials are compared by, so it cannot be searched; set it."
        )
    fixed = [key for key, _ in _leaves(config)] if isinstance(config, Mapping) else []
    for key in found:
        for other in fixed:
            if f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}."):
                both = key if key == other else f"{key} and {other}"
                raise ConfigError(
                    f"{both}: given as what to search (space, --space) and as a value (config, "
                    "--set); leave one out."
                )
    return found


def _leaves(values: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if not isinstance(key, str) or not all(key.split(".")):
            raise ConfigError(f"space, config: {key!r:.80} is no key; keys are texts.")
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _parsed(given: Any, where: str) -> Choices | Range:
    if isinstance(given, str):
        if (found := _range(given, where)) is not None:
            return found
        if given.lstrip().startswith("["):
            given = parse_json(given, where)
        else:
            given = [json_or_text(part.strip(), where) for part in given.split(",")]
    if not isinstance(given, list | tuple):
        raise ConfigError(f"{where}: {given!r:.80} says nothing to search; {GRAMMAR}.")
    if len(given) < 2:
        only = f"{given[0]!r:.80} is one value" if given else "there is no value"
        raise ConfigError(f"{where}: {only}; {GRAMMAR}. A single value is set by config (--set).")
    texts = [json.dumps(value, default=str, sort_keys=True) for value in given]
    if "" in given:
        raise ConfigError(f"{where}: there is nothing between two commas; {GRAMMAR}.")
    if twice := [text for text in texts if texts.count(text) > 1]:
        raise ConfigError(f"{where}: {twice[0]} is there twice; leave one out.")
    return Choices(tuple(given))


def _range(text: str, where: str) -> Range | None:
    """The range that a text is, if it is one."""
    ends, colon, scale = text.strip().partition(":")
    if "..." in ends:  # or 1...2 would end at .2
        return None
    low_text, dots, high_text = ends.partition("..")
    low, high = _number(low_text), _number(high_text)
    if not dots or low is None or high is None:
        return None
    if colon and scale.strip() != "log":
        raise ConfigError(f"{where}: {scale!r} after the range; only :log can stand there.")
    if not (isinstance(low, int) and isinstance(high, int)):
        low, high = float(low), float(high)
    if low >= high:
        raise ConfigError(
            f"{where}: the range {ends} is empty; write the lower end first, and for a single "
            "value use config (--set)."
        )
    if colon and low <= 0:
        raise ConfigError(f"{where}: a range by order of magnitude (:log) begins above 0.")
    return Range(low, high, log=bool(colon))


def _number(text: str) -> int | float | None:
    text = text.strip()
    with suppress(ValueError):
        number = int(text) if _WHOLE.fullmatch(text) else float(text)
        return number if math.isfinite(number) else None
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def usable(args: Mapping[str, Any], space: Space, *, own: bool) -> Space:
    """The keys of a search space that have an effect, whose values can all be used.

    Of what MMSA searches, some models read not all; trials that differ in no more would be the
    same run.

    Args:
        args: The configuration that is tuned.
        space: The space.
        own: Whether it is the user's, who is told of a key without an effect.

    Raises:
        ConfigError: If a value cannot be used, or a key of the user's has no effect.
    """
    start = merge(args, {key: values.some()[0] for key, values in space.items()})
    idle, name = unread(start, space), args["model_name"]
    if idle and own:
        raise ConfigError(
            f"space: {', '.join(idle)}: {name} does not read it, so nothing would be searched; "
            "leave it out."
        )
    if idle:
        logger.info("Not searched, as %s does not read it: %s.", name, ", ".join(idle))
    searched = {key: values for key, values in space.items() if key not in idle}
    for key, values in searched.items():
        for value in values.some():
            checked(merge(start, {key: value}), drawn=True)
    return searched


def without(space: Space, given: Mapping[str, Any]) -> Space:
    """A space without the keys that the user set."""
    fixed = {*given, *(path for path, _ in mmsa_bridge.leaves(given))}
    whole = {key for key, value in given.items() if not isinstance(value, Mapping)}
    return {k: v for k, v in space.items() if k not in fixed and k.split(".")[0] not in whole}


def point(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """One point of the space, as overrides."""
    drawn: dict[str, Any] = {}
    for key, values in space.items():
        *above, last = key.split(".")
        below = drawn
        for part in above:
            below = below.setdefault(part, {})
        below[last] = values.draw(trial, key)
    return drawn
