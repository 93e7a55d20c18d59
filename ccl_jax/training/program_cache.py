"""Compiled programs of a run, kept for its next start.

JAX runs them as they are, so whoever can write them can run code here. A
workdir that came from somebody else may hold some. Those of this user are in a
folder of `compiled/` whose name only this user can compute, from the workdir's
path and a secret key:

    compiled/HMAC(key, absolute path of compiled/)

The key is made when first needed, in ~/.cache/ccl_jax/key
(XDG_CACHE_HOME/ccl_jax). With several hosts, host 0's key is used, as JAX
writes programs from there alone. Hosts that are created for each start should
set JAX_COMPILATION_CACHE_DIR to a folder that they trust.
"""

import hmac
import logging
import os
import pathlib
import secrets

import jax
from etils import epath

from ccl_jax.processes import distributed

_KEY_BYTES = 32
_NAME_BYTES = 16


def enable(folder: epath.PathLike) -> None:
  """Keeps compiled programs below `folder`, where the next start finds them.

  A folder in JAX_COMPILATION_CACHE_DIR has precedence. All processes must call
  this.
  """
  name = bytes(distributed.broadcast_ints(list(_name(folder))))
  if jax.config.jax_compilation_cache_dir is None and any(name):
    path = epath.Path(folder) / name.hex()
    jax.config.update("jax_compilation_cache_dir", os.fspath(path))


def read_key() -> bytes:
  """Returns this user's key, made if there is none; OSError if that fails."""
  home = pathlib.Path.home() / ".cache"
  home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or home)
  path = home / "ccl_jax" / "key"
  if not path.exists():
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".key.{os.getpid()}.{secrets.token_hex(4)}")
    partial.touch(0o600)
    try:
      partial.write_bytes(secrets.token_bytes(_KEY_BYTES))
      os.link(partial, path)  # Unlike a rename, not over another process's.
    except FileExistsError:
      pass
    finally:
      partial.unlink()
  return path.read_bytes()


def _name(folder: epath.PathLike) -> bytes:
  """Returns the name of this user's folder; zeros on a host without a key."""
  try:
    key = read_key()
  except OSError as error:
    if distributed.is_lead():
      logging.warning("Compiled programs are not kept: %s.", error)
    return bytes(_NAME_BYTES)
  text = os.fspath(epath.Path(folder)).encode()
  return hmac.digest(key, text, "sha256")[:_NAME_BYTES]
