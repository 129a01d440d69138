"""The training and evaluation steps: pure, jitted, donated, sharded, compiled once per canvas."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from pixelbert_jax.tasks.task import Batch, Sums, Task, mean_metrics
from pixelbert_jax.training.optimizer import Schedule, restarted
from pixelbert_jax.training.sharding import MeshConfig, batch_sharding, replicated, state_shardings
from pixelbert_jax.training.skippable import choose


class TrainState(NamedTuple):
    """All that training changes."""

    step: jax.Array  # int32, steps done
    params: Any
    rest: Any  # module state that is no parameter: BatchNorm's stored statistics
    opt_state: Any
    ema: Any  # moving average of params; an empty dict if off
    skipped: jax.Array  # int32, steps skipped because a gradient was not finite
    skipped_in_a_row: jax.Array  # int32


@dataclasses.dataclass(frozen=True)
class Trainer:
    """The compiled functions of one run."""

    graphdef: nnx.GraphDef
    mesh: Mesh
    shardings: TrainState
    abstract_state: TrainState
    init: Callable[[], TrainState]
    train_step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]
    eval_step: Callable[[TrainState, Batch], Sums]
    restart: Callable[[TrainState], TrainState]  # with fresh moments of the optimizer; the state is donated

    def module(self, state: TrainState) -> nnx.Module:
        """The model with the state's parameters, the moving average where there is one."""
        return nnx.merge(self.graphdef, state.ema or state.params, state.rest)


def make_trainer(
    task: Task,
    optimizer: optax.GradientTransformationExtraArgs,
    schedule: Schedule,
    mesh: Mesh,
    mesh_config: MeshConfig,
    *,
    seed: int,
    accumulation: int = 1,
    ema_decay: float = 0.0,
) -> Trainer:
    """Put a task, an optimizer and a mesh together.

    Args:
      task: what is trained.
      optimizer: optax transform over the parameters, from `make_optimizer`; with finite=False it keeps its state.
      schedule: the factor on the learning rates; only reported here.
      mesh: devices, with axes data and fsdp.
      mesh_config: how parameters are split.
      seed: seed of the parameters and, with the step, of sampling and dropout.
      accumulation: micro-batches per step; must divide the rows per device.
      ema_decay: decay of the parameters' moving average; 0: none.
    """
    platform = mesh.devices.flat[0].platform
    init_key, step_key = jax.random.split(jax.random.key(seed))

    graphdef = nnx.graphdef(nnx.eval_shape(lambda: task.init(platform=platform, rngs=nnx.Rngs(params=0))))

    def init(key: jax.Array) -> TrainState:
        module = task.init(platform=platform, rngs=nnx.Rngs(params=key))
        params, rest = (nnx.as_pure(state) for state in nnx.state(module, nnx.Param, ...))
        zero = jnp.zeros((), jnp.int32)
        ema = jax.tree.map(jnp.copy, params) if ema_decay else {}
        return TrainState(zero, params, rest, optimizer.init(params), ema, zero, zero)

    abstract = jax.eval_shape(init, init_key)
    shardings = state_shardings(mesh, mesh_config, abstract)
    abstract = jax.tree.map(
        lambda array, sharding: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding),
        abstract,
        shardings,
    )
    same, rows = replicated(mesh), batch_sharding(mesh)

    def gradients(state: TrainState, batch: Batch, totals: dict, key: jax.Array) -> tuple:
        def loss_fn(params: Any) -> tuple:
            if mesh_config.fsdp > 1:  # gather parameters; left alone, the partitioner moves activations, far more bytes
                params = jax.lax.with_sharding_constraint(params, same)
            module = nnx.merge(graphdef, params, state.rest)
            loss, sums = task.loss(module, batch, totals, key)
            return loss, (nnx.as_pure(nnx.state(module, nnx.Not(nnx.Param))), sums)

        (loss, (rest, sums)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        return loss, sums, grads, rest

    def accumulated(state: TrainState, batch: Batch, totals: dict, key: jax.Array) -> tuple:
        """Gradients of the whole batch from micro-batches of interleaved rows. Each device has a share of each."""

        def micro_batches(x: jax.Array) -> jax.Array:
            return jnp.moveaxis(x.reshape(x.shape[0] // accumulation, accumulation, *x.shape[1:]), 1, 0)

        def body(carry: tuple, micro_batch: Batch) -> tuple:
            loss, sums, grads, rest = gradients(state._replace(rest=carry[3]), micro_batch, totals, key)
            return (*jax.tree.map(jnp.add, carry[:3], (loss, sums, grads)), rest), None

        micro = jax.tree.map(micro_batches, batch)
        zeros = jax.tree.map(
            lambda array: jnp.zeros(array.shape, array.dtype),
            jax.eval_shape(gradients, state, jax.tree.map(lambda x: x[0], micro), totals, key)[:3],
        )
        carry, _ = jax.lax.scan(body, (*zeros, state.rest), micro)
        return carry

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(step_key, state.step)
        batch = batch | {"row": jnp.arange(len(jax.tree.leaves(batch)[0]))}
        compute = gradients if accumulation == 1 else accumulated
        loss, sums, grads, rest = compute(state, batch, task.totals(batch), key)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(grad_norm) & jnp.isfinite(loss)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params, finite=finite)
        params = choose(finite, optax.apply_updates(state.params, updates), state.params)
        rest = choose(finite, rest, state.rest)
        ema = (
            jax.tree.map(lambda old, new: ema_decay * old + (1 - ema_decay) * new, state.ema, params)
            if ema_decay
            else {}
        )
        ema = choose(finite, ema, state.ema)
        skipped = jnp.where(finite, 0, 1).astype(jnp.int32)
        new_state = TrainState(
            state.step + 1,
            params,
            rest,
            opt_state,
            ema,
            state.skipped + skipped,
            jnp.where(finite, 0, state.skipped_in_a_row + 1).astype(jnp.int32),
        )
        metrics = {
            "loss": loss,
            **mean_metrics(sums),
            "gradient_norm": grad_norm,
            # As in the optimizer, whose count does not include skipped steps.
            "learning_rate_factor": jnp.asarray(schedule(state.step - state.skipped), jnp.float32),
            "skipped": new_state.skipped,
            "skipped_in_a_row": new_state.skipped_in_a_row,
            "rows_skipped": (~batch["pair_mask"].any(1)).sum(),
        }
        return new_state, metrics

    def eval_step(state: TrainState, batch: Batch) -> Sums:
        module = nnx.merge(graphdef, state.ema or state.params, state.rest)
        return task.loss(module, batch, task.totals(batch), None)[1]

    def restart(state: TrainState) -> TrainState:
        return state._replace(opt_state=restarted(state.opt_state, optimizer.init(state.params)))

    return Trainer(
        graphdef=graphdef,
        mesh=mesh,
        shardings=shardings,
        abstract_state=abstract,
        init=lambda: jax.jit(init, out_shardings=shardings)(init_key),
        train_step=jax.jit(
            train_step,
            donate_argnums=0,
            in_shardings=(shardings, rows),
            out_shardings=(shardings, same),
        ),
        eval_step=jax.jit(eval_step, in_shardings=(shardings, rows), out_shardings=same),
        restart=jax.jit(restart, donate_argnums=0, in_shardings=(shardings,), out_shardings=shardings),
    )
