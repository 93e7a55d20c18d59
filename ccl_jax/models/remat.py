"""Remat policies: which values of a block are kept for the backward pass.

The others are recomputed.
"""

import jax

from ccl_jax.attention.sharded import SELF_ATTENTION
from ccl_jax.models.layers import MLP_HIDDEN

BLOCK_INPUT = "block_input"
_policies = jax.checkpoint_policies
REMAT = {
  "none": None,  # no checkpoint, as one that saves everything prevents fusion
  "linear": _policies.dots_with_no_batch_dims_saveable,
  "full": _policies.nothing_saveable,
  "attention": _policies.save_only_these_names(SELF_ATTENTION),
  "attention_ffn": _policies.save_only_these_names(SELF_ATTENTION, MLP_HIDDEN),
  "offload": _policies.save_and_offload_only_these_names(
    names_which_can_be_saved=[],
    names_which_can_be_offloaded=[BLOCK_INPUT, SELF_ATTENTION],
    offload_src="device",
    offload_dst="pinned_host",
  ),
}
