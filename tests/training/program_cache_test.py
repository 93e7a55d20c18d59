"""Compiled programs are found again, and only those of this user."""

import jax
from jax.experimental.compilation_cache import compilation_cache

from ccl_jax.training import program_cache
from tests import commands


def test_a_compiled_program_is_found_by_the_next_start(tmp_path, monkeypatch):
  """But not by one of another user, or what another has put there."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
  folder = tmp_path / "compiled"

  def start():
    """What a new process would compile."""
    jax.clear_caches()
    compilation_cache.reset_cache()
    return jax.jit(lambda x: x * 2 + 1)(3.0)

  loaded = []
  jax.monitoring.register_event_listener(
    lambda event, **_: loaded.append(event.endswith("/cache_hits"))
  )
  setting = "jax_persistent_cache_min_compile_time_secs"
  before = getattr(jax.config, setting)
  jax.config.update(setting, 0)
  try:
    program_cache.enable(folder)
    assert start() == 7
    (own,) = folder.iterdir()
    assert list(own.iterdir())
    loaded.clear()
    assert start() == 7 and any(loaded)
    program_cache.enable(tmp_path / "other")  # what is set has precedence
    assert jax.config.jax_compilation_cache_dir == str(own)
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "somebody"))
    program_cache.enable(folder)
    loaded.clear()
    assert start() == 7 and not any(loaded)
    assert len(list(folder.iterdir())) == 2
  finally:
    jax.config.update(setting, before)
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()


PROGRAM = """
import os
import sys
import jax
from ccl_jax.processes import distributed
from ccl_jax.training import program_cache
distributed.initialize(sys.argv[-1].split("=")[1])
# Hosts have homes of their own.
os.environ["XDG_CACHE_HOME"] = f"{sys.argv[1]}/home {jax.process_index()}"
jax.config.update("jax_compilation_cache_dir", None)
program_cache.enable(f"{sys.argv[1]}/compiled")
print("folder", jax.config.jax_compilation_cache_dir)
distributed.shutdown()
"""


def test_all_hosts_look_where_host_0_writes(tmp_path):
  """JAX writes on no other."""
  folders = set()
  for process in commands.start_two("-c", PROGRAM, tmp_path):
    status, text = commands.finish(process)
    assert status == 0, text
    folders |= {x for x in text.splitlines() if x.startswith("folder")}
  (folder,) = folders
  assert folder.startswith(f"folder {tmp_path}/compiled/")


def test_a_key_is_made_once_and_is_secret(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  key = program_cache.read_key()
  assert len(key) == 32 and program_cache.read_key() == key
  (file,) = (tmp_path / "ccl_jax").iterdir()
  assert file.stat().st_mode & 0o777 == 0o600


def test_without_a_place_for_the_key_programs_are_not_kept(
  tmp_path, monkeypatch, caplog
):
  (tmp_path / "file").write_text("")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
  before = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", None)
  try:
    program_cache.enable(tmp_path / "compiled")
    assert jax.config.jax_compilation_cache_dir is None
  finally:
    jax.config.update("jax_compilation_cache_dir", before)
  assert "not kept" in caplog.text
