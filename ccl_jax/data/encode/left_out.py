"""Reasons why clips cannot be used."""

import json
import re
from collections.abc import Mapping

from etils import epath

from ccl_jax.storage.files import replacing

FILE = "left_out.jsonl"  # in the data set, if there are any
_MAX_REASONS = 10


def write_left_out(folder: epath.PathLike, left_out: Mapping[str, str]) -> None:
  """Writes a line of JSON for each name -> reason, if there is any."""
  if left_out:
    rows = ({"file": f, "reason": r} for f, r in sorted(left_out.items()))
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    with replacing(epath.Path(folder) / FILE) as partial:
      partial.write_text(lines)


def describe_reasons(left_out: Mapping[str, str]) -> str:
  """Returns a line for each kind of reason: how many, and the first of them.

  Reasons are of one kind if they are equal before the first number or colon.
  """
  kinds: dict[str, list[str]] = {}
  for name, reason in sorted(left_out.items()):
    kind = re.split(r"[\d:(]", reason, maxsplit=1)[0]
    kinds.setdefault(kind, []).append(name)
  ordered = sorted(kinds.values(), key=len, reverse=True)
  lines = [
    f"  {len(names):5} {'such as ' if len(names) > 1 else ''}"
    f"{names[0]}: {left_out[names[0]]}"
    for names in ordered[:_MAX_REASONS]
  ]
  rest = sum(len(names) for names in ordered[_MAX_REASONS:])
  return "\n".join(lines + ([f"  {rest:5} for other reasons"] if rest else []))


def no_usable_clip(left_out: Mapping[str, str]) -> ValueError:
  """Returns the error for a folder in which no clip can be used."""
  return ValueError(
    f"None of {len(left_out)} clips can be used:\n{describe_reasons(left_out)}"
  )
