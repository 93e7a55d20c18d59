"""Programs as users compile them equal those of the tests, up to rounding.

For speed `conftest.py` has XLA optimise nothing; here another process has it
optimise.
"""

import functools
import os
import subprocess
import sys

import jax
import numpy as np

from ccl_jax.diffusion.forward_passes import Condition
from ccl_jax.diffusion.tasks import inference_task
from ccl_jax.generation.sampling import sample_latents
from ccl_jax.generation.sampling_config import SamplingConfig
from ccl_jax.training import step
from ccl_jax.training.state import make_state
from tests.models import tiny
from tests.training import setups

UNOPTIMIZED = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
WRITE = """
import sys
import numpy as np
from tests import optimized_test
np.savez(sys.argv[1], **optimized_test.results())
"""


@jax.numpy_dtype_promotion("standard")  # as optax needs
def results():
  """Returns loss and gradient norm of a training step, and sampled latents."""
  setup = setups.make_setup(model=tiny.SETTINGS | {"num_layers": 1})
  params = tiny.randomize(setup.plan.shapes)
  state, _, text, _ = jax.device_get(tiny.inputs(b=setup.batch_size))
  exists = np.ones(setup.batch_size, bool)
  batch = state | {
    "text": text, "null_text": text[0], "has_video": exists, "has_audio": exists
  }  # fmt: skip
  train_step = jax.jit(functools.partial(step.train_step, setup=setup))
  _, metrics = train_step(make_state(setup, params), batch)
  latents, _ = sample_latents(
    params, state, {}, Condition(text=text, negative=text[::-1]),
    graph=setup.plan.graph, task=inference_task("t2av"),
    sampling=SamplingConfig(num_inference_steps=2), layout=setup.plan.layout,
  )  # fmt: skip
  kept = {name: metrics[name] for name in ("loss", "grad_norm")}
  return jax.device_get(kept | latents)


def test_optimisations_change_only_rounding(tmp_path):
  path = tmp_path / "results.npz"
  settings = {k: v for k, v in os.environ.items() if k not in UNOPTIMIZED}
  command = [sys.executable, "-c", WRITE, str(path)]
  subprocess.run(command, env=settings, check=True)
  found, expected = np.load(path), results()
  assert set(found) == {"loss", "grad_norm", "video", "audio"}
  for name, value in expected.items():
    np.testing.assert_allclose(
      found[name], value, rtol=1e-5, atol=1e-5 * np.abs(value).max()
    )
