"""The order in which a weight is gathered: the table of the module."""

from ccl_jax.params.weight_gathering import gather_steps


def test_parameters_are_gathered_axis_by_axis():
  steps = gather_steps((None, ("fsdp", "data"), "tensor"))
  assert steps == (
    (None, ("fsdp", "data"), "tensor"),
    (None, ("fsdp",), "tensor"),
    (None, None, "tensor"),
  )
