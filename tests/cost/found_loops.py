"""The loops of a program."""

from ccl_jax.cost.hlo_loops import executed_ops


def loops(program):
  """Returns the loops, outer before inner."""
  found = {}
  for each in executed_ops(program):
    if each.loop is not None:
      found.setdefault((each.loop.body, each.loop.count), each.loop)
  return list(found.values())
