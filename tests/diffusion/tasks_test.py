import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.array_types import Route
from ccl_jax.diffusion import tasks
from ccl_jax.diffusion.objective import Objective

ALL = jnp.arange(4)
YES, NO = jnp.ones(4, bool), jnp.zeros(4, bool)
MANY = jnp.ones(4000, bool)
PROBABILITIES = tuple(task.probability for task in tasks.TASKS)


def test_table_is_the_one_in_the_docstring():
  """Each row of the docstring, read as text, is the row of TASKS."""
  lines = tasks.__doc__.splitlines()
  rows = [line.split("  ") for line in lines if line.startswith("    ")][1:]
  rows = [[cell.strip() for cell in row if cell.strip()] for row in rows]
  assert len(rows) == len(tasks.TASKS)
  for (name, probability, t_video, t_audio, video, audio, loss), task in zip(
    rows, tasks.TASKS, strict=True
  ):
    assert (name, float(probability)) == (task.name, task.probability)
    expected = {"video": t_video != "0", "audio": t_audio != "0"}
    assert {s: s in task.generated for s in expected} == expected
    assert task.shared_time == (t_video == t_audio)
    assert ("video" in task.sees_other) == (video == "context + a")
    assert ("audio" in task.sees_other) == (audio == "context + v")
    both = {("video", "audio"): "both"}
    assert loss == both.get(task.generated, task.generated[0])


def test_routes_of_the_four_tasks():
  route = tasks.route_of(ALL, YES, YES)
  #                                          apart a2v  v2a  joint
  expected = Route(
    sees={"video": [0, 1, 0, 1], "audio": [0, 0, 1, 1]},
    is_generated={"video": [1, 1, 0, 1], "audio": [1, 0, 1, 1]},
    exchanges=[1, 1, 1, 1],
  )
  found = jax.tree.map(lambda x: x.astype(int).tolist(), route)
  assert found == expected


def test_tasks_have_their_probabilities():
  task = tasks.draw_tasks(jax.random.key(0), PROBABILITIES, MANY, MANY)
  share = np.bincount(task, minlength=4) / len(task)
  np.testing.assert_allclose(share, PROBABILITIES, atol=0.03)
  only = tasks.draw_tasks(jax.random.key(0), (0.0, 1.0, 0.0, 0.0), MANY, MANY)
  assert (only == 1).all()


def test_a_sample_that_lacks_a_stream_is_apart_and_sees_nothing():
  task = tasks.draw_tasks(jax.random.key(0), (0.0, 0.0, 0.0, 1.0), YES, NO)
  assert (task == 0).all()
  route = tasks.route_of(task, YES, NO)
  assert (
    route.is_generated["video"].all() and not route.is_generated["audio"].any()
  )
  assert not (route.sees["video"] | route.sees["audio"]).any()


DRAW = Objective(time_shift=5.0).draw_time


def test_times_are_shared_in_joint_independent_in_apart_zero_if_given():
  task = jnp.tile(ALL, 200)
  both = jnp.ones(len(task), bool)
  route = tasks.route_of(task, both, both)
  t = tasks.draw_times(jax.random.key(0), route, task, DRAW)
  video, audio = (np.asarray(t[s]).reshape(-1, 4).T for s in t)
  apart, a2v, v2a, joint = range(4)
  assert abs(np.corrcoef(video[apart], audio[apart])[0, 1]) < 0.2
  assert (audio[a2v] == 0).all() and (video[v2a] == 0).all()
  np.testing.assert_array_equal(video[joint], audio[joint])
  generated = np.concatenate([video[apart], video[a2v], audio[v2a]])
  assert ((generated > 0) & (generated < 1)).all()
  # The median of a logit-normal is 1/2, shifted 5 * .5 / 3.
  np.testing.assert_allclose(np.median(generated), 5 / 6, atol=0.03)


def test_streams_of_their_own_times_share_the_base():
  task = jnp.tile(ALL, 50)
  both = jnp.ones(len(task), bool)
  route = tasks.route_of(task, both, both)

  def draw(**times):
    names = ("time_mean", "time_std", "time_shift")
    values = zip(names, zip(*times.values(), strict=True), strict=True)
    made = Objective(
      **{name: dict(zip(times, x, strict=True)) for name, x in values}
    )
    t = tasks.draw_times(jax.random.key(0), route, task, made.draw_time)
    return {s: np.asarray(x) for s, x in t.items()}

  plain = (0.0, 1.0, 1.0)
  base = draw(video=plain, audio=plain)
  own = draw(video=(0.0, 1.0, 7.0), audio=(-0.5, 2.0, 2.0))
  joint = np.asarray(task) == 3
  np.testing.assert_array_equal(base["video"][joint], base["audio"][joint])
  for s, mean, std, shift in (("video", 0, 1, 7), ("audio", -0.5, 2, 2)):
    made = (base[s] > 0) & (base[s] < 1)
    normal = np.log(base[s][made] / (1 - base[s][made]))
    expected = 1 / (1 + np.exp(-(mean + std * normal)))
    expected = shift * expected / (1 + (shift - 1) * expected)
    np.testing.assert_allclose(own[s][made], expected, rtol=1e-4)
  other = draw(video=(0.0, 1.0, 7.0), audio=plain)
  np.testing.assert_array_equal(own["video"], other["video"])


def test_draws_of_a_sample_do_not_depend_on_the_batch():
  key, few = jax.random.key(5), jnp.ones(3, bool)
  many = tasks.draw_tasks(key, PROBABILITIES, MANY, MANY)
  np.testing.assert_array_equal(
    tasks.draw_tasks(key, PROBABILITIES, few, few), many[:3]
  )


@pytest.mark.parametrize(
  "name, generated, given, clean",
  [
    ("t2av", ("video", "audio"), (), {}),
    ("i2av", ("video", "audio"), (), {"video": (2, 3, 1, 1, 1)}),
    ("t2v", ("video",), (), {}),
    ("i2v", ("video",), (), {"video": (2, 3, 1, 1, 1)}),
    ("t2a", ("audio",), (), {}),
    ("a2v", ("video",), ("audio",), {"audio": (2, 1, 1)}),
    ("v2a", ("audio",), ("video",), {"video": (2, 1, 1, 1, 1)}),
  ],
)
def test_inference_tasks(name, generated, given, clean):
  task = tasks.inference_task(name)
  assert (task.generated, task.given) == (generated, given)
  route = task.route(2)
  for stream in ("video", "audio"):
    assert route.is_generated[stream].all() == (stream in generated)
    sees = stream in generated and len(task.streams) == 2
    assert route.sees[stream].all() == route.sees[stream].any() == sees
  shapes = {"video": (2, 3, 4, 4, 5), "audio": (2, 6, 5)}
  masks = task.clean({s: jnp.zeros(shapes[s]) for s in task.streams})
  assert {s: mask.shape for s, mask in masks.items()} == clean
  assert all(mask[:, 0].all() and mask.sum() == 2 for mask in masks.values())


def test_unknown_inference_task_lists_the_names():
  with pytest.raises(ValueError, match=r"'t2x'.*t2av, i2av, t2v"):
    tasks.inference_task("t2x")
