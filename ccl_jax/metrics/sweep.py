"""Guidance rules with their scales, and each rule at its own best ones.

A rule is written "ucg2", with the run's scales; "ucg2:2", with one scale for
both streams; or "ucg3:2:3", with the scales of the text and the other stream.
"""

from collections.abc import Mapping, Sequence

from ccl_jax.diffusion import guidance
from ccl_jax.metrics import bootstrap, synchworld


def parse_rule(text: str) -> dict[str, str | float | None]:
  """Returns the keys of the config's `sampling` section that a rule sets.

  Raises:
    ValueError: an unknown rule, or scales that it cannot have.
  """
  name, *scales = text.split(":")
  takes = min(len(guidance.rule(name).terms), 2)
  try:
    values = [float(x) for x in scales]
  except ValueError:
    values = [-1.0]
  if not all(0 <= x < float("inf") for x in values) or len(values) > takes:
    raise ValueError(
      f"Guidance '{text}': expected '{':'.join([name, *['SCALE'] * takes])}',"
      " with scales of at least 0."
    )
  keys = {"guidance": name}
  if values:
    keys |= dict.fromkeys(
      ("video_guidance_scale", "audio_guidance_scale"), values[0]
    )
  if len(values) > 1:
    keys |= {"cross_guidance_scale": values[1]}
    keys |= {"audio_cross_guidance_scale": None}
  return keys


def best_scales(
  measured: Mapping[tuple[str, ...], Sequence[synchworld.ClipScores]],
  score: str,
) -> list[tuple[str, ...]]:
  """Returns of each task and rule the setting with the best score.

  Args:
    measured: (task, rule with scales) -> measurements of clips.

  Raises:
    ValueError: a setting whose clips have no such score.
  """
  sign, found = 1 if score in synchworld.RISING else -1, {}
  for (task, rule), clips in measured.items():
    scores = bootstrap.aggregate(clips, 1)
    if score not in scores:
      raise ValueError(
        f"--sweep={score}: the clips of {task} have {', '.join(scores)} only."
      )
    value = sign * scores[score].value
    group = task, rule.partition(":")[0]
    if group not in found or value > found[group][0]:
      found[group] = value, (task, rule)
  return [setting for _, setting in found.values()]
