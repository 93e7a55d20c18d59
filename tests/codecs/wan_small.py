"""A Wan autoencoder that compiles in seconds: stride 2 x 2 x 2."""

import numpy as np

from ccl_jax.codecs import wan_vae
from ccl_jax.params import nnx_utils, trees

SMALL = wan_vae.WanVAEConfig(
  base=4,
  multipliers=(1, 2),
  residuals=1,
  channels=3,
  halves_time=(True,),
  mean=(0.1, -0.2, 0.3),
  deviation=(1.0, 2.0, 0.5),
)


def random_params(config=SMALL, seed=0):
  """Returns random parameters, not near zero; norms and biases too."""
  rng, made = np.random.default_rng(seed), {}
  for path, x in trees.flatten(
    nnx_utils.param_shapes(wan_vae.Autoencoder, config)
  ).items():
    noise = rng.standard_normal(x.shape, np.float32)
    if path.endswith("kernel"):
      made[path] = noise * np.float32(np.prod(x.shape[:-1]) ** -0.5)
    else:
      made[path] = np.float32(0.3) * noise + path.endswith("scale")
  return trees.unflatten(made)
