"""Config sections become constructor calls; the constructor is the schema.

A key that no constructor takes is an error that names the nearest key, so
nothing in a config is ever silently unread.
"""

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any


def check_keys(given, known, where: str) -> None:
  """Raises ValueError naming each unknown key of `given` and its neighbour."""
  for key in given:
    if key not in known:
      near = difflib.get_close_matches(key, list(known), n=1)
      hint = f" Did you mean '{near[0]}'?" if near else ""
      raise ValueError(
        f"Unknown config key '{where}.{key}'.{hint}"
        f" Known keys: {', '.join(sorted(known))}."
      )


def build(make: Callable[..., Any], section: Mapping, where: str, **extra):
  """`make(**section, **extra)`, with unknown, missing and mistyped keys named.

  `extra` are arguments that do not come from the config.

  Raises:
    ValueError: a key of `section` that `make` does not take, or one it needs
      and did not get.
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
  return make(**section, **extra)
