"""The config that a workdir belongs to."""

import pytest

from ccl_jax.checkpoints import run_config


def test_a_workdir_belongs_to_one_config(tmp_path):
  config = {"seed": 0, "log": {"every_steps": 1}, "size": (64, 64)}
  run_config.claim(tmp_path / "run", config, ("log",))
  again = config | {"log": {"every_steps": 5}}
  run_config.claim(tmp_path / "run", again, ("log",))
  assert run_config.read(tmp_path / "run")["log"] == {"every_steps": 5}
  with pytest.raises(ValueError, match="seed: 0 there, 1 now"):
    run_config.claim(tmp_path / "run", config | {"seed": 1}, ("log",))
  sized = config | {"log": {"every_steps": 5, "more": None}, "data": {"a": 1}}
  with pytest.raises(ValueError, match=r"\(data.a: absent there, 1 now\)"):
    run_config.claim(tmp_path / "run", sized, ("log",))
  with pytest.raises(ValueError, match=r"log.more: absent there, None now"):
    run_config.claim(
      tmp_path / "run", sized, ("data", "log.every", "log.every_steps")
    )
  with pytest.raises(ValueError, match="not a training workdir"):
    run_config.read(tmp_path)


def test_keys_of_later_versions_that_are_off_are_no_change(tmp_path):
  config = {"seed": 0, "data": {"path": "a"}}
  run_config.claim(tmp_path / "run", config, ())
  later = {"seed": 0, "data": {"path": "a", "buckets": ()}}
  run_config.claim(tmp_path / "run", later, ())
  later["data"]["buckets"] = (1,)
  with pytest.raises(ValueError, match=r"data.buckets: \[\] there, \[1\] now"):
    run_config.claim(tmp_path / "run", later, ())


def test_a_run_goes_on_as_before_where_a_later_version_has_a_choice(tmp_path):
  old = {"objective": {"video_weight": 0.5}}
  run_config.claim(tmp_path, old, ())
  same = {"objective": {"video_weight": 0.5, "error": "velocity"}}
  run_config.check(tmp_path, same, ())
  other = {"objective": {"video_weight": 0.5, "error": "noise"}}
  with pytest.raises(ValueError, match="velocity there, noise now"):
    run_config.check(tmp_path, other, ())
