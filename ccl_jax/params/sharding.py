"""Sharding: one mesh of four axes, and rules from names to axes.

    data     splits samples; the axis that runs between slices
    fsdp     splits samples and parameters
    context  splits the frames of a sample
    tensor   splits the heads and channels of a token

A rule is `(regex, spec)`; a spec has an axis, a tuple of axes or None for each
dimension; dimensions that it leaves out count as None. The first rule that
matches the path of a parameter, or the name of an activation, applies:

    video/tokens, audio/tokens   (b, f, s, d)    the residual streams
    video/heads, audio/heads     (b, n, k, e)    queries, and their outputs
    batch                        (b, ...)        text, images, rows of a batch

Parameters are stored sharded, see `weight_gathering`. Rules may shard them over
`data` too, (fsdp, data): one axis is then gathered after the other, which on a
TPU torus is half the traffic of one long axis. They should not do so across
slices.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ccl_jax.array_types import Array, PyTree
from ccl_jax.config import check_choice, check_pairs, check_patterns, to_tuples
from ccl_jax.params import lora, trees
from ccl_jax.params.param_names import is_stacked

AXES = ("data", "fsdp", "context", "tensor")
ACTIVATIONS = (
  "video/tokens", "audio/tokens", "video/heads", "audio/heads", "batch",
)  # fmt: skip
MODES = ("gather", "ulysses")

Spec = tuple[str | tuple[str, ...] | None, ...]
Rules = tuple[tuple[str, Spec], ...]


def make_mesh(
  devices: Sequence[Any],
  data: int = 1,
  fsdp: int = -1,
  context: int = 1,
  tensor: int = 1,
  num_slices: int = 1,
) -> Mesh:
  """Makes a mesh of all `devices`; one size may be -1, for "the rest".

  The data centre's network joins `num_slices` slices; `data` runs over it and
  is a multiple of their number.

  Raises:
    ValueError: sizes whose product is not the number of devices.
  """
  sizes = [data, fsdp, context, tensor]
  shown = dict(zip(AXES, sizes, strict=True))
  if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
    raise ValueError(f"mesh {shown}: expected sizes >= 1, at most one -1.")
  if num_slices < 1:
    raise ValueError(f"mesh {num_slices=}: expected at least 1.")
  known = math.prod(s for s in sizes if s != -1)
  sizes = [len(devices) // known if s == -1 else s for s in sizes]
  if math.prod(sizes) != len(devices) or sizes[0] % num_slices:
    raise ValueError(
      f"mesh {shown} in {num_slices} slices does not fit {len(devices)}"
      " devices: the product of the sizes is their number, and data a"
      " multiple of the slices."
    )
  if num_slices > 1:
    inner, outer = [sizes[0] // num_slices, *sizes[1:]], [num_slices, 1, 1, 1]
    array = mesh_utils.create_hybrid_device_mesh(
      inner, outer, devices, allow_split_physical_axes=True
    )
  else:
    array = mesh_utils.create_device_mesh(
      sizes, devices, allow_split_physical_axes=True
    )
  return Mesh(array, AXES, axis_types=(AxisType.Auto,) * len(AXES))


@dataclasses.dataclass(frozen=True)
class Layout:
  """A mesh and its rules; without a mesh it leaves everything alone.

  Attributes:
    mesh: from `make_mesh`, or None for one device.
    params, activations: rules, see the module.
    self_attention: over `context`, "gather" keys and values, or exchange
      tokens for heads ("ulysses").
    max_unsharded: the share of the parameters' bytes that every device may
      hold unsharded.

  Raises:
    ValueError: an unknown axis or mode, or an axis twice in one spec.
  """

  mesh: Mesh | None = None
  params: Rules = ()
  activations: Rules = ()
  self_attention: str = "gather"
  max_unsharded: float = 0.02

  def __post_init__(self):
    check_choice("sharding.self_attention", self.self_attention, MODES)
    for regex, spec in (*self.params, *self.activations):
      used = [axis for entry in spec for axis in axes_of(entry)]
      if set(used) - set(AXES) or len(used) != len(set(used)):
        raise ValueError(
          f"sharding rule '{regex}' has {spec}: expected each of {AXES} at"
          " most once."
        )

  @property
  def device(self) -> Any:
    """Returns a device of the mesh, or of this host."""
    return jax.devices()[0] if self.mesh is None else self.mesh.devices.flat[0]

  def size(self, entry: Any) -> int:
    """Returns the number of shards of a spec, or of one of its entries."""
    if self.mesh is None:
      return 1
    return math.prod(self.mesh.shape[axis] for axis in axes_of(entry))

  def sharding(self, *spec) -> NamedSharding | None:
    """Returns a spec's sharding on the mesh; None without a mesh."""
    return self.mesh and NamedSharding(self.mesh, PartitionSpec(*spec))

  def spec(self, name: str) -> Spec:
    """Returns an activation's spec; ValueError unless one rule is for it."""
    names = trees.unflatten(dict.fromkeys(ACTIVATIONS))
    return trees.flatten(trees.match(self.activations, names))[name]

  def constrain(self, x: Array, name: str) -> Array:
    """Constrains x to the rule for `name`."""
    if self.mesh is None:
      return x
    return jax.lax.with_sharding_constraint(x, self.sharding(*self.spec(name)))

  def replicate(self, x: Array) -> Array:
    """Constrains x to be replicated on every device."""
    if self.mesh is None:
      return x
    return jax.lax.with_sharding_constraint(x, self.sharding())

  def copies(self, axis: str) -> int:
    """Returns how many shards of an axis hold the same of all parameters."""
    used = {a for _, spec in self.params for e in spec for a in axes_of(e)}
    return 1 if axis in used else self.size(axis)

  def without(self, axis: str) -> "Layout":
    """Returns the layout of what is mapped over an axis by `jax.vmap`."""
    activations = without_axis(self.activations, axis)
    return dataclasses.replace(self, activations=activations)

  def batch_shards(self) -> int:
    """Returns the number of shards of a batch's rows."""
    return 1 if self.mesh is None else self.size(self.spec("batch")[0])

  def rows(self) -> NamedSharding | None:
    """Returns the sharding of arrays whose leading axis is the batch."""
    return self.mesh and self.sharding(self.spec("batch")[0])

  def padded_frames(self, frames: int) -> int:
    """Rounds `frames` up to a multiple of the context axis."""
    return frames + -frames % self.size("context")

  def param_specs(self, shapes: PyTree) -> PyTree:
    """Returns the spec of every parameter.

    Raises:
      ValueError: a leaf without a rule or a rule without a leaf, a dimension
        that an axis does not divide, or too much that is not split at all.
    """
    flat = self.match(shapes)
    leaves = trees.flatten(shapes)
    for path, leaf in leaves.items():
      self._check_divides(path, leaf.shape, flat[path])
    self._check_sharded(leaves, flat)
    return trees.unflatten(flat)

  def with_shardings(self, shapes: PyTree) -> PyTree:
    """Returns the parameters' shapes with their shardings, if on a mesh."""
    if self.mesh is None:
      return shapes
    specs = trees.flatten(self.param_specs(shapes))
    shardings = {path: self.sharding(*spec) for path, spec in specs.items()}
    return with_shardings(shapes, trees.unflatten(shardings))

  def match(self, params: PyTree, idle_ok: bool = False) -> dict[str, Spec]:
    """Returns path -> spec; arguments and errors are those of `trees.match`.

    A and B of a LoRA are split over the axes of their kernel, on the side that
    they share with it; over `tensor` only where this side of the kernel is.
    """
    kernels = {
      path: lora.base_of(path) or path for path in trees.flatten(params)
    }
    tree = trees.unflatten(dict.fromkeys(kernels.values()))
    specs = trees.flatten(trees.match(self.params, tree, idle_ok))
    return {
      path: _spec_of(path, specs[kernel]) for path, kernel in kernels.items()
    }

  def _check_divides(self, path: str, shape: tuple[int, ...], spec: Spec):
    if len(spec) > len(shape):
      raise ValueError(
        f"'{path}' has {shape=}: its sharding rule {spec} has more axes."
        " Shorten it in sharding.params."
      )
    for length, entry in zip(shape, spec, strict=False):
      if length % self.size(entry):
        raise ValueError(
          f"'{path}' has {shape=}: {length} cannot be split over {entry},"
          f" {self.size(entry)} ways ({spec}). Change mesh or sharding.params."
        )

  def _check_sharded(self, leaves: dict[str, Any], specs: dict[str, Spec]):
    """Checks that rules which split parameters split nearly all bytes."""
    used = {a for spec in specs.values() for a in axes_of(spec)}
    if self.size(tuple(used)) == 1:
      return
    size = {path: x.size * x.dtype.itemsize for path, x in leaves.items()}
    unsharded = [path for path, spec in specs.items() if self.size(spec) == 1]
    share = sum(size[path] for path in unsharded) / sum(size.values())
    if share > self.max_unsharded:
      worst = sorted(unsharded, key=size.get, reverse=True)[:5]
      raise ValueError(
        f"{share:.1%} of the parameters' bytes are on every device,"
        f" {self.max_unsharded:.0%} may be. The largest: {', '.join(worst)}."
        " Add rules to sharding.params."
      )


ONE_DEVICE = Layout()


def _spec_of(path: str, spec: Spec) -> Spec:
  """Returns the spec of a parameter from that of the kernel it belongs to."""
  if not lora.base_of(path):
    return spec
  num = 3 if is_stacked(path) else 2
  *layer, d_in, d_out = (*spec, *[None] * (num - len(spec)))
  is_a = path.endswith("/a/kernel")
  axes = [a for a in axes_of((d_in, d_out)) if a != "tensor"]
  axes += ["tensor"] * ("tensor" in axes_of(d_in if is_a else d_out))
  entry = tuple(axes) or None
  return (*layer, entry, None) if is_a else (*layer, None, entry)


def axes_of(entry: Any) -> tuple[str, ...]:
  """Returns the axes of a spec, or of one of its entries."""
  if entry is None:
    return ()
  if isinstance(entry, str):
    return (entry,)
  return tuple(axis for part in entry for axis in axes_of(part))


def without_axis(rules: Rules, axis: str) -> Rules:
  """Returns rules that split nothing over an axis."""
  return tuple(
    (
      regex,
      tuple(tuple(a for a in axes_of(e) if a != axis) or None for e in spec),
    )
    for regex, spec in rules
  )


def make_layout(
  mesh: Mapping[str, int],
  sharding: Mapping[str, Any],
  devices: Sequence[Any] | None = None,
) -> Layout:
  """Makes a layout from the config's sections; for one device an empty one.

  Args:
    mesh: arguments of `make_mesh`.
    sharding: arguments of `Layout`.
    devices: by default all that this run has.

  Raises:
    ValueError: malformed rules, or what `make_mesh` and `Layout` refuse.
  """
  for name in ("params", "activations"):
    _check_rules(f"sharding.{name}", sharding.get(name, ()))
  devices = jax.devices() if devices is None else devices
  made = make_mesh(devices, **mesh)
  return Layout(None if made.size == 1 else made, **to_tuples(dict(sharding)))


def _check_rules(key: str, rules: Any) -> None:
  """Checks the rules of a config; raises ValueError if they are malformed."""
  check_pairs(key, rules, (tuple, list))
  check_patterns(key, (regex for regex, _ in rules))
  for regex, spec in rules:
    for entry in spec:
      names = entry if isinstance(entry, (tuple, list)) else [entry or ""]
      if not all(isinstance(name, str) for name in names):
        raise ValueError(
          f"{key}: '{regex}' has {spec!r}, expected an axis, a tuple of axes or"
          " None for each dimension."
        )


def with_shardings(shapes: PyTree, shardings: PyTree) -> PyTree:
  """Returns shapes and dtypes with their shardings; allocates nothing."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    shardings,
  )
