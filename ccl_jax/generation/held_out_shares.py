"""The headline shares of clips that are sampled while a model trains.

They equal those of `evaluate` on the same clips with one seed: the share of the
way from the best blind generators to the codecs' ceiling. Both ends depend on
clips and codecs alone, and are measured once, before training. Process 0 scores
and broadcasts the values to the others: all must agree on the best checkpoint.
"""

import math
from collections.abc import Sequence

from etils import epath

from ccl_jax.checkpoints.restore import SHARE
from ccl_jax.codecs.api import Codecs
from ccl_jax.data import records
from ccl_jax.data.clip import ClipShape, GeneratedClip
from ccl_jax.data.encode.captions import list_clips
from ccl_jax.data.loader import read_clips
from ccl_jax.data.synthetic import english
from ccl_jax.data.synthetic.scene import VOWELS
from ccl_jax.diffusion import tasks
from ccl_jax.generation.eval_config import EvalConfig
from ccl_jax.generation.pipeline import Pipeline
from ccl_jax.generation.sampling_config import SamplingConfig
from ccl_jax.generation.scored_worlds import (
  Clips,
  References,
  World,
  open_world,
  share_settings,
)
from ccl_jax.metrics import bootstrap
from ccl_jax.metrics.synchworld import HEADLINES, parse_prompt
from ccl_jax.models.plan import ModelPlan
from ccl_jax.processes import distributed
from ccl_jax.training.log_config import share_name, share_names


class ScoredClips:
  """Held-out clips of a world, and the references of their scores."""

  def __init__(self, world: World, clips: Clips):
    self._world, self._clips = world, clips
    self.references: References = world.references(clips)

  def shares(
    self, task: str, made: Sequence[GeneratedClip] | None = None
  ) -> dict[str, float]:
    """Returns name in the log -> headline share of the clips of a task.

    Args:
      made: None for the codecs' ceiling, which has all shares that there are.
    """
    measured = self.references["codec ceiling"]
    if made is not None:
      given = tasks.inference_task(task).given
      measured = self._world.measure(self._clips, made, given)
    found = share_settings({(task,): measured}, self.references)[task]
    return {
      share_name(task, score): found[score].value
      for score in HEADLINES
      if score in found
    }


class HeldOutShares:
  """A function of a task's generated clips, which all processes must call.

  Args:
    scored: the true clips, in process 0.
    names: of the shares that are known.
  """

  def __init__(self, scored: ScoredClips | None, names: Sequence[str]):
    self._scored, self._names = scored, names

  def __call__(
    self, task: str, made: Sequence[GeneratedClip]
  ) -> dict[str, float]:
    """Returns name in the log -> share; none of a task without both streams.

    Args:
      made: in process 0, one clip for each that is scored.
    """
    names = [n for n in self._names if n.startswith(f"{SHARE}{task}/")]
    if not names:
      return {}
    found = self._scored.shares(task, made) if self._scored else {}
    values = [found.get(name, math.nan) for name in names]
    return dict(zip(names, distributed.broadcast_floats(values), strict=True))


def open_shares(
  config: EvalConfig,
  plan: ModelPlan,
  data: epath.PathLike,
  keep_best: str = "",
) -> HeldOutShares | None:
  """Measures floors and ceiling of a split's clips; None without `eval.world`.

  Args:
    data: the set of the clips.
    keep_best: metric by which checkpoints are chosen.

  Raises:
    ValueError: the folder is of no world that can be scored, or of other clips;
      or no share, or not that of `keep_best`, can be computed.
  """
  if not config.world:
    return None
  names, scored, error = share_names(config.tasks), None, None
  if distributed.is_lead():
    try:
      scored = _open_clips(config, plan, epath.Path(data))
      known = [n for task in config.tasks for n in scored.shares(task)]
      _check_known(config, known, keep_best, scored.references)
    except ValueError as found:
      error = found
  if not distributed.all_agree(error is None):
    raise error or ValueError("Process 0 cannot score eval.world, see there.")
  is_known = [scored is not None and name in known for name in names]
  is_known = distributed.broadcast_ints(is_known)
  return HeldOutShares(
    scored, [n for n, x in zip(names, is_known, strict=True) if x]
  )


def _open_clips(
  config: EvalConfig, plan: ModelPlan, data: epath.Path
) -> ScoredClips:
  """Returns the clips to score; raises as `open_shares`."""
  shape = ClipShape.from_dict(records.read_metadata(data))
  if shape.size[0] != shape.size[1] or shape.frames == 1:
    raise ValueError(
      f"eval.world={config.world}: '{data}' has clips of {shape} (frames x y x"
      " x), expected square videos, as those of the synthetic world."
    )
  clips = read_clips(data, config.split, config.num_scored)
  _check_clips(epath.Path(config.world), clips, data)
  pipeline = Pipeline(  # Without parameters: it decodes only.
    plan=plan, params=None, codecs=Codecs.load(data / "codecs"), shape=shape,
    sampling=SamplingConfig(), step=0,
  )  # fmt: skip
  return ScoredClips(open_world(pipeline, config.world), clips)


def _check_clips(world: epath.Path, clips: Clips, data: epath.Path) -> None:
  """Raises ValueError if clips are not those of the world's folder."""
  where = f"eval.world={world}"
  if not world.is_dir():
    raise ValueError(
      f"{where}: expected the folder that '{data}' was encoded from."
    )
  if (num := len(clips["name"])) < 2:
    raise ValueError(
      f"{where}: eval.split has {num} clips, expected 2 or more."
    )
  known = {x.name: x.caption for x in list_clips(world).clips}
  is_english = (world / english.FILE).exists()
  for name, prompt in zip(clips["name"], clips["caption"], strict=True):
    if known.get(name) != prompt:
      raise ValueError(
        f"{where}: '{name}' of '{data}', with the prompt '{prompt}', is not"
        " there: expected the folder that the data were encoded from."
      )
    words = set(parse_prompt(prompt).words)
    if not is_english and not (words and words <= VOWELS.keys()):
      raise ValueError(
        f"{where}: the prompt '{prompt}' is of no synthetic world: expected"
        " clips that python -m ccl_jax.world has made."
      )


def _check_known(
  config: EvalConfig,
  known: Sequence[str],
  keep_best: str,
  references: References,
) -> None:
  """Raises ValueError without any share, or without the one that is needed."""
  if known and (keep_best in known or not keep_best.startswith(SHARE)):
    return
  lacks = f"that checkpoint.keep_best={keep_best} names" if known else "at all"
  ends = []
  for row in ("blind", "codec ceiling"):
    found = bootstrap.aggregate(references[row])
    values = [f"{n} {found[n].value:.2f}" for n in HEADLINES if n in found]
    ends.append(f"{row}: {', '.join(values)}")
  scores = "; ".join(ends)
  raise ValueError(
    f"eval.world={config.world}: no share {lacks} can be computed, as the"
    f" codecs' ceiling is not surely beyond the blind generators ({scores}) on"
    f" {len(references['blind'])} clips of '{config.split}'. Set a larger"
    " eval.num_scored, or encode with better codecs, as encode.codec=conv."
  )
