"""Time of each part of the model against the machine's limit and against PyTorch's, in turn.

    python -m benchmarks.cpu.parts --backbone=r50 --output=FILE.json

Two images of 384x640, 32 tokens and 100 pixels a pair, float32, without dropout: the stem, the stages, pooling
and projection, the encoder, the head for masked words, each forward alone and with its gradients; and the optimizer.
The limit is the larger of operations over the measured rate of a large matrix product, and bytes of what goes in and
out, parameters included, over the measured rate of a large copy.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx

from benchmarks.cpu.against_torch import BACKBONE, MODELS, STEP, WORDS, comparable
from benchmarks.harness.measuring import machine, operations, report, rounded
from benchmarks.harness.rates import copy_rate, matrix_rate
from benchmarks.harness.torch_peer import TorchPixelBert, make_optimizers
from benchmarks.harness.turns import TURNS, in_turn, spread
from experiments.configs import pretrain_r50
from experiments.run.common_flags import OUTPUT
from experiments.run.config_flags import run_main
from pixelbert_jax.config import PixelBertConfig
from pixelbert_jax.tasks.pretraining import ModelForPretraining
from pixelbert_jax.training.optimizer import make_optimizer
from pixelbert_jax.training.sharding import MeshConfig, make_mesh
from pixelbert_jax.training.skippable import choose

IMAGES, PIXELS = 2, 100
Part = tuple[Callable[[Any, jax.Array], jax.Array], Callable[[Any, torch.Tensor], torch.Tensor], tuple[int, ...]]


def parts(model: PixelBertConfig, size: tuple[int, int]) -> dict[str, Part]:
    """Ours, the peer's and the shape that goes in (channels last), of each part that has gradients."""
    found: dict[str, Part] = {}
    height, width = (-(-n // 2) for n in size)
    whole = lambda x: jnp.tile(jnp.array(x.shape[1:3]), (len(x), 1))  # noqa: E731
    found["stem"] = (
        lambda ours, x: ours.model.backbone.stem(x, whole(x), False)[0],
        lambda peer, x: peer.backbone.embedder(x),
        (IMAGES, *size, 3),
    )
    height, width, channels = -(-height // 2), -(-width // 2), model.backbone.stem_width

    def our_stage(index: int, ours: ModelForPretraining, x: jax.Array) -> jax.Array:
        sizes = whole(x)
        for block in ours.model.backbone.stages[index]:
            x = block(x, sizes, False)
            sizes = -(-sizes // block.stride)
        return x

    for i, (stride, outputs) in enumerate(zip(model.backbone.strides, model.backbone.widths, strict=True)):
        found[f"stage {i + 1}"] = (
            functools.partial(our_stage, i),
            functools.partial(lambda i, peer, x: peer.backbone.encoder.stages[i](x), i),
            (IMAGES, height, width, channels),
        )
        height, width, channels = -(-height // stride), -(-width // stride), outputs
    found["pool and projection"] = (
        lambda ours, x: ours.model.pixel_embedding(x, whole(x))[0],
        lambda peer, x: peer.pixels_of(x),
        (IMAGES, height, width, channels),
    )
    length, width = WORDS + PIXELS, model.encoder.width
    found["encoder"] = (
        lambda ours, x: ours.model.encoder(x, jnp.ones(x.shape[:2], bool)),
        lambda peer, x: peer.bert.encoder(x).last_hidden_state,
        (IMAGES, length, width),
    )
    found["words' head"] = (
        lambda ours, x: ours.mlm_head(x, ours.model.text_embedding.word[...]),
        lambda peer, x: peer.token_logits(x),
        (IMAGES, max(1, round(0.15 * WORDS)), width),
    )
    return found


def our_ways(
    model: PixelBertConfig, part: Part
) -> tuple[dict[str, Callable[[], Any]], dict[str, float], dict[str, int]]:
    """The part forward and with gradients, the operations of both, and the bytes of what goes in and out.

    The model must have no loop over its layers, of which the compiler counts one turn.
    """
    function, _, shape = part
    graphdef, params, rest = nnx.split(nnx.eval_shape(lambda: _module(model)), nnx.Param, ...)
    x = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)

    def run(params: Any, x: jax.Array) -> jax.Array:
        return function(nnx.merge(graphdef, params, rest), x)

    params, rest = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.02, leaf.dtype), (params, rest))
    used = _used(run, params, x)
    held = [leaf for leaf, is_used in zip(jax.tree.leaves(params), used, strict=True) if is_used]

    def forward(held: list[jax.Array], x: jax.Array) -> jax.Array:
        left = iter(held)
        leaves = [next(left) if is_used else leaf for leaf, is_used in zip(jax.tree.leaves(params), used, strict=True)]
        return run(jax.tree.unflatten(jax.tree.structure(params), leaves), x)

    def gradients(held: list[jax.Array], x: jax.Array) -> Any:
        # An image needs no gradient.
        inputs = (held,) if shape[-1] == 3 else (held, x)
        y, back = jax.vjp(lambda held, x=x: forward(held, x), *inputs)
        return back(y)

    functions = {"forward": forward, "with gradients": gradients}
    compiled = {name: jax.jit(f) for name, f in functions.items()}
    ways = {name: functools.partial(lambda f: jax.block_until_ready(f(held, x)), f) for name, f in compiled.items()}
    counted = {name: operations(f, held, x) for name, f in functions.items()}
    moved = {name: _bytes((held, x, jax.eval_shape(f, held, x))) for name, f in functions.items()}
    return ways, counted, moved


def _bytes(arrays: Any) -> int:
    """Of all arrays of a tree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(arrays))


def _module(model: PixelBertConfig) -> ModelForPretraining:
    return ModelForPretraining(model, platform=jax.default_backend(), rngs=nnx.Rngs(params=0))


def _used(run: Callable, params: Any, x: jax.Array) -> list[bool]:
    """Which leaves of the parameters a part reads."""
    jaxpr = jax.make_jaxpr(run)(params, x).jaxpr
    read = {id(variable) for equation in jaxpr.eqns for variable in equation.invars}
    return [id(variable) in read for variable in jaxpr.invars[: len(jax.tree.leaves(params))]]


def peer_ways(peer: TorchPixelBert, part: Part) -> dict[str, Callable[[], Any]]:
    """The same of the peer."""
    _, function, shape = part
    x = torch.randn(shape)
    x = (x.permute(0, 3, 1, 2) if len(shape) == 4 else x).requires_grad_(shape[-1] != 3)
    weights = [p for p in peer.parameters() if p.requires_grad]

    def forward() -> None:
        with torch.inference_mode():
            function(peer, x)

    def gradients() -> None:
        y = function(peer, x)
        torch.autograd.grad(y, [x, *weights] if x.requires_grad else weights, y.detach(), allow_unused=True)

    return {"forward": forward, "with gradients": gradients}


def optimizer_ways(model: PixelBertConfig, peer: TorchPixelBert) -> tuple[dict[str, Callable[[], Any]], int]:
    """Both optimizers, clipping by the norm included, over all parameters, and the bytes that must be moved."""
    config = pretrain_r50.get_config().optimizer
    optimizer = make_optimizer(config, model.backbone, lambda step: jnp.float32(1.0))
    shapes = nnx.as_pure(nnx.state(nnx.eval_shape(lambda: _module(model)), nnx.Param))
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.02, leaf.dtype), shapes)
    gradients = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 1e-4, leaf.dtype), shapes)
    state = (params, optimizer.init(params))

    def update(state: Any, gradients: Any) -> Any:
        params, moments = state
        finite = jnp.isfinite(optax.tree.norm(gradients))
        updates, moments = optimizer.update(gradients, moments, params, finite=finite)
        return choose(finite, optax.apply_updates(params, updates), params), moments

    compiled = jax.jit(update, donate_argnums=0)

    def ours() -> None:
        nonlocal state
        state = jax.block_until_ready(compiled(state, gradients))

    optimizers = make_optimizers(peer, config)
    for parameter in peer.parameters():
        parameter.grad = torch.full_like(parameter, 1e-4)

    def theirs() -> None:
        torch.nn.utils.clip_grad_norm_(peer.parameters(), config.clip_norm)
        for each in optimizers:
            each.step()

    return {"ours": ours, "torch": theirs}, _bytes((state, state, gradients))


def measure(model: PixelBertConfig, size: tuple[int, int], turns: int) -> dict[str, Any]:
    """All parts."""
    model = comparable(model)
    peer = TorchPixelBert(model).eval()
    rate, bandwidth = matrix_rate("float32"), copy_rate()
    rows = []
    for name, part in parts(model, size).items():
        ours, counted, moved = our_ways(model, part)
        theirs = peer_ways(peer, part)
        for what, flops in counted.items():
            seconds = in_turn({"ours": ours[what], "torch": theirs[what]}, turns, 1)
            rows.append(_row(name, what, seconds, flops, moved[what], rate, bandwidth))
        jax.clear_caches()
    ways, held = optimizer_ways(model, peer)
    rows.append(_row("optimizer", "update", in_turn(ways, turns, 1), 0.0, held, rate, bandwidth))
    return {
        **machine(make_mesh(MeshConfig())),
        "image": list(size),
        "images": IMAGES,
        "matrix_rate_gflops": rounded(rate / 1e9),
        "copy_rate_gb": rounded(bandwidth / 1e9),
        "parts": rows,
    }


def _row(
    name: str, what: str, seconds: dict[str, list[float]], flops: float, moved: int, rate: float, bandwidth: float
) -> dict[str, Any]:
    ours, theirs = spread(seconds["ours"])["median"], spread(seconds["torch"])["median"]
    limit = max(flops / rate, moved / bandwidth)
    return {
        "part": name,
        "what": what,
        "gflop": rounded(flops / 1e9),
        "mb": rounded(moved / 1e6),
        "limit_ms": rounded(1e3 * limit),
        "ours_ms": rounded(1e3 * ours),
        "torch_ms": rounded(1e3 * theirs),
        "ours_over_torch": rounded(ours / theirs),
        "ours_over_limit": rounded(ours / limit),
    }


def main() -> None:
    """Entry point behind the flags."""
    found = measure(MODELS[BACKBONE.value](), STEP, TURNS.value)
    report({"backbone": BACKBONE.value} | found, OUTPUT.value)


if __name__ == "__main__":
    run_main(main, takes_config=False)
