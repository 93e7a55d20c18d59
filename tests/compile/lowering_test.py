"""What is compiled elsewhere is the run's program, as far as it can be read."""

import jax

from ccl_jax.compile.lowering import printable
from ccl_jax.training.xla_options import compiler_options
from configs import pods


def test_sparse_cores_of_tpu7x_are_off_to_print_and_on_to_train(monkeypatch):
  monkeypatch.setattr(jax, "__version_info__", (0, 10, 2))
  config = pods.get_config("pod=tpu7x-4x4x4,size=14b").to_dict()
  assert not compiler_options(config["xla_options"], "TPU7x")
  off = compiler_options(printable(config, "tpu7x")["xla_options"], "TPU7x")
  assert off and set(off.values()) == {"false"}
  asked = {**config, "xla_options": ("sparse_core",)}
  on = compiler_options(printable(asked, "tpu7x")["xla_options"], "TPU7x")
  assert set(on.values()) == {"true"}
  assert printable(config, "v6e") is config
  monkeypatch.setattr(jax, "__version_info__", (0, 11, 2))
  assert printable(config, "tpu7x") is config
