"""Compiled programs of a run, kept for its next start.

JAX runs them as they are, so that whoever can write them can run code here. A
workdir that came from somebody else may hold some: those of this user are in a
folder of `compiled/` whose name only this user can know, as it is made of the
workdir's place and of a secret key,

    compiled/HMAC(key, absolute path of compiled/)

The key is made at first need in ~/.cache/ccl_jax/key (XDG_CACHE_HOME/ccl_jax).
Hosts without a common home keep programs of their own; those that are made anew
for every start set JAX_COMPILATION_CACHE_DIR to a folder that they trust.
"""

import hmac
import logging
import os
import pathlib
import secrets

import jax
from etils import epath

_KEY_BYTES = 32


def enable(folder: epath.PathLike) -> None:
  """Keeps compiled programs below `folder`, where the next start finds them.

  A folder in JAX_COMPILATION_CACHE_DIR has precedence.
  """
  if jax.config.jax_compilation_cache_dir is not None:
    return
  try:
    key = read_key()
  except OSError as error:
    logging.warning("Compiled programs are not kept: %s.", error)
    return
  folder = epath.Path(folder)
  name = hmac.digest(key, os.fspath(folder).encode(), "sha256").hex()[:32]
  jax.config.update("jax_compilation_cache_dir", os.fspath(folder / name))


def read_key() -> bytes:
  """Returns this user's key, which it makes if there is none.

  Raises:
    OSError: it can be neither read nor written.
  """
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
