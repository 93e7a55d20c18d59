"""Turns config sections into constructor calls; the constructor is the schema.

A key that no constructor takes is an error that names the nearest key, so no
part of a config is silently ignored. `RENAMED` has the former names of keys:
a new config may not use them, and the stored config of a run is upgraded when
it is read. A run that began before a key of `ADDED` existed goes on with the
value in that table.
"""

import difflib
import inspect
import re
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

# Dotted name of a key in earlier versions -> today's.
RENAMED = {
  "accumulate": "grad_accumulation_steps",
  "batch": "batch_size",
  "checkpoint.every": "checkpoint.save_interval_steps",
  "checkpoint.keep": "checkpoint.max_to_keep",
  "data.sample": "data.sample_posterior",
  "data.workers": "data.num_threads",
  "encode.batch": "encode.batch_size",
  "encode.fit_clips": "encode.num_fit_clips",
  "encode.shard": "encode.clips_per_shard",
  "encode.validation": "encode.validation_fraction",
  "encode.workers": "encode.num_workers",
  "eval.every": "eval.every_steps",
  "eval.num": "eval.num_clips",
  "initial": "init",
  "initial.new": "init.fresh",
  "initial.sources": "init.from_runs",
  "log.every": "log.every_steps",
  "log.max_skipped": "log.max_nonfinite_steps",
  "log.profile": "log.profile_steps",
  "mesh.slices": "mesh.num_slices",
  "model.fusion.audio_context": "model.fusion.num_audio_lct",
  "model.fusion.audio_half": "model.fusion.audio_window_radius",
  "model.fusion.video_context": "model.fusion.num_video_lct",
  "model.fusion.video_half": "model.fusion.video_window_radius",
  "objective.shift": "objective.time_shift",
  "optimizer.clip": "optimizer.clip_global_norm",
  "optimizer.decay": "optimizer.schedule",
  "optimizer.ema": "optimizer.ema_decay",
  "optimizer.rates": "optimizer.learning_rates",
  "optimizer.warmup": "optimizer.warmup_steps",
  "sampling.audio_cross_scale": "sampling.audio_cross_guidance_scale",
  "sampling.audio_scale": "sampling.audio_guidance_scale",
  "sampling.batched": "sampling.batch_passes",
  "sampling.cross_scale": "sampling.cross_guidance_scale",
  "sampling.method": "sampling.solver",
  "sampling.reference_once": "sampling.cache_reference",
  "sampling.rescale": "sampling.guidance_rescale",
  "sampling.steps": "sampling.num_inference_steps",
  "sampling.video_scale": "sampling.video_guidance_scale",
  "steps": "num_train_steps",
  "xla": "xla_options",
}


# How keys are written on the command line that are not plain numbers or words.
FORMS = {
  "data.path": "FOLDER",
  "data.sources": "\"(('FOLDER', WEIGHT), ('FOLDER', WEIGHT))\"",
  "eval.world": "FOLDER",
  "encode.buckets": "'((FRAMES, Y, X), (FRAMES, Y, X))'",
  "init.from_runs": "\"(('PATH REGEX', 'WORKDIR'),)\"",
  "init.fresh": "\"('PATH REGEX',)\"",
  "lora.rules": "\"(('PATH REGEX', RANK),)\"",
  "lora.train_also": "\"('PATH REGEX',)\"",
  "optimizer.learning_rates": "\"(('PATH REGEX', RATE),)\"",
  "sharding.activations": "\"(('NAME REGEX', ('AXIS', None)),)\"",
  "sharding.params": "\"(('PATH REGEX', ('AXIS', None)),)\"",
  "xla_options": "\"(('xla_...', 'VALUE'),)\"",
}

# Dotted name of a key that earlier versions did not have -> what they did.
ADDED = {
  "model.audio.prediction_type": "flow_prediction",
  "model.video.prediction_type": "flow_prediction",
  "objective.error": "velocity",
  "objective.time_distribution": "logit_normal",
  "optimizer.frozen_dtype": "float32",
}


def dotted(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Returns dotted key -> value of a nested config; sections are no values."""
  found = {}
  for key, value in config.items():
    if isinstance(value, Mapping) and value:
      found |= dotted(value, f"{prefix}{key}.")
    else:
      found[f"{prefix}{key}"] = value
  return found


def check_pairs(key: str, pairs: Any, second: type | tuple[type, ...]) -> None:
  """Raises ValueError unless a config's value is ((text, value), ...).

  Args:
    key: dotted, one of `FORMS`.
    second: types of the values.
  """
  for pair in pairs if isinstance(pairs, (tuple, list)) else [pairs]:
    match pair:
      case [str(), value] if _is(value, second):
        continue
    raise ValueError(
      f"{key} is {pairs!r}: expected pairs, --config.{key}={FORMS[key]}"
    )


def check_value(key: str, value: Any, is_right: bool, expected: str) -> None:
  """Raises ValueError with the key, its value and what is expected instead."""
  if not is_right:
    raise ValueError(f"{key}={value!r}: expected {expected}.")


def check_choice(key: str, value: Any, choices: Collection[str]) -> None:
  """Raises ValueError with all choices and the nearest, if it is none."""
  if value not in choices:
    raise ValueError(
      f"{key}={value!r}: expected one of {', '.join(choices)}."
      f"{suggest(str(value), choices)}"
    )


def check_patterns(key: str, patterns: Iterable[str]) -> None:
  """Raises ValueError if a pattern of a config key is not a valid regex."""
  for pattern in patterns:
    try:
      re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
      raise ValueError(
        f"{key}: '{pattern}' is no regex: {error}. A name is written as it is,"
        " and .* fits anything."
      ) from error


def new_path(path: str) -> str | None:
  """Returns today's name of a dotted key, if it or its section was renamed."""
  for i in range(len(parts := path.split(".")), 0, -1):
    if new := RENAMED.get(".".join(parts[:i])):
      return ".".join([new, *parts[i:]])
  return None


def upgrade(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Returns a stored config under today's names; others stay as they are."""
  upgraded = {}
  for key, value in config.items():
    path = f"{prefix}{key}"
    if isinstance(value, Mapping):
      value = upgrade(value, f"{path}.")
    if path == "sharding.activations":  # the rule of all rows of a batch
      value = [("batch" if r == "text" else r, spec) for r, spec in value]
    upgraded[RENAMED.get(path, key).rpartition(".")[2]] = value
  return upgraded


def suggest(key: str, known: Collection[str]) -> str:
  """Returns " Did you mean 'X'?" with the nearest known key, or ""."""
  near = difflib.get_close_matches(key.lower(), known, n=1)
  return f" Did you mean '{near[0]}'?" if near else ""


def check_keys(
  keys: Collection[str], known: Collection[str], where: str
) -> None:
  """Raises ValueError for a key that is not known.

  The message has today's name of a renamed key, else the nearest known one.
  """
  for key in keys:
    if key not in known:
      path = f"{where}.{key}"
      new = RENAMED.get(path.removeprefix("config."))
      hint = f" It is called '{new}' now." if new else suggest(key, known)
      raise ValueError(
        f"Unknown config key '{path}'.{hint}"
        f" Known keys: {', '.join(sorted(known))}."
      )


def build(make: Callable[..., Any], section: Mapping, where: str, **extra):
  """Returns `make(**section, **extra)` after checking the section's keys.

  Args:
    where: dotted name of the section, for messages.
    extra: arguments that do not come from the config.

  Raises:
    ValueError: a key of `section` that `make` does not take, one it needs and
      did not get, or a tuple of other values than it takes.
  """
  # A metaclass may hide the signature of a class behind (*args, **kwargs).
  signed = make.__init__ if isinstance(make, type) else make
  parameters = dict(inspect.signature(signed).parameters)
  parameters.pop("self", None)
  check_keys(section, parameters.keys() - extra.keys(), where)
  missing = [
    name
    for name, p in parameters.items()
    if p.default is p.empty and name not in section and name not in extra
  ]
  if missing:
    raise ValueError(f"Config section '{where}' lacks {', '.join(missing)}.")
  for name, value in section.items():
    _check_items(f"{where}.{name}", value, parameters[name].annotation)
  return make(**section, **extra)


def _check_items(key: str, value: Any, annotation: Any) -> None:
  """Raises ValueError if a tuple[X, ...] has something else than X."""
  kinds = {
    (str, ...): ("texts", str),
    (int, ...): ("whole numbers", int),
    (float, ...): ("numbers", (int, float)),
  }
  of = typing.get_args(annotation)
  if typing.get_origin(annotation) is not tuple or of not in kinds:
    return
  words, types = kinds[of]
  items = value if isinstance(value, (tuple, list)) else [None]
  if not all(_is(x, types) for x in items):
    raise ValueError(f"{key} is {value!r}: expected {words} in parentheses.")


def _is(value: Any, types: type | tuple[type, ...]) -> bool:
  """Returns whether a value is of one of the types; bools are no numbers."""
  return isinstance(value, types) and not isinstance(value, bool)


def to_tuples(value: Any) -> Any:
  """Returns nested lists as tuples, so that what JSON held is hashable."""
  if isinstance(value, dict):
    return {k: to_tuples(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return tuple(to_tuples(v) for v in value)
  return value
