"""Visual question answering as classification over a list of answers (paper section 4.2.1)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from pixelbert_jax.config import PixelBertConfig
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.pixelbert import PixelBert
from pixelbert_jax.tasks.heads import Classifier, pair_fields, read_pairs
from pixelbert_jax.tasks.task import Batch, Field, Sums


@dataclasses.dataclass(frozen=True)
class VqaConfig:
    """The answers that the model chooses from."""

    answers: int = 0  # size of the answer vocabulary; 0: taken from the run's
    answer_slots: int = 10  # greatest number of different answers to a question: ten people answered each

    def __post_init__(self) -> None:
        if self.answers < 0 or self.answer_slots < 1:
            raise ConfigError(f"task.answers={self.answers} and task.answer_slots={self.answer_slots} are too small.")


class PixelBertForVqa(nnx.Module):
    """Pixel-BERT with a classifier on [CLS]."""

    def __init__(self, config: PixelBertConfig, answers: int, *, platform: str | None = None, rngs: nnx.Rngs) -> None:
        self.model = PixelBert(config, platform=platform, rngs=rngs)
        # Each of many answers is rarely right. With a bias of 0 the first steps would learn little but that
        # (Lin et al. 2017, 3.3).
        rarely = -math.log(max(answers - 1, 1))
        self.answer_head = Classifier(config, config.encoder.width, answers, first_bias=rarely, rngs=rngs)


@dataclasses.dataclass(frozen=True)
class VqaTask:
    """A batch is B images with K questions each; every question has a score in [0, 1] for some answers."""

    model: PixelBertConfig
    config: VqaConfig

    def fields(self) -> dict[str, Field]:
        slots = ("B", "K", self.config.answer_slots)
        return {
            **pair_fields(self.model),
            "answer": Field(slots, "int32", 0, self.config.answers - 1, "answers that are right, 0 if unused"),
            "answer_score": Field(slots, "float32", 0, 1, "how right each is, 0 if unused"),
            "one_is_enough": Field(("B", "K"), "bool", 0, 1, "False: only a set of several answers is right"),
        }

    def init(self, *, platform: str | None = None, rngs: nnx.Rngs) -> PixelBertForVqa:
        if self.config.answers < 1:
            raise ConfigError("task.answers is 0; set it to the number of answers.")
        return PixelBertForVqa(self.model, self.config.answers, platform=platform, rngs=rngs)

    def totals(self, batch: Batch) -> dict[str, jax.Array]:
        return {"questions": batch["pair_mask"].sum()}

    def loss(
        self, module: PixelBertForVqa, batch: Batch, totals: dict[str, jax.Array], key: jax.Array | None
    ) -> tuple[jax.Array, Sums]:
        """Binary cross-entropy, summed over the answers, averaged over the questions."""
        logits_NxA = self.forward(module, batch, key)
        questions = logits_NxA.shape[0]
        mask_N = batch["pair_mask"].reshape(questions)
        answer_NxS = batch["answer"].reshape(questions, -1)
        score_NxS = batch["answer_score"].reshape(questions, -1)
        target_NxA = jnp.zeros_like(logits_NxA).at[jnp.arange(questions)[:, None], answer_NxS].max(score_NxS)
        loss_N = optax.sigmoid_binary_cross_entropy(logits_NxA, target_NxA).sum(-1)
        loss = jnp.where(mask_N, loss_N, 0).sum()
        best_N = logits_NxA.argmax(-1)
        right_N = jnp.take_along_axis(target_NxA, best_N[:, None], axis=1)[:, 0]
        right_N = jnp.where(batch["one_is_enough"].reshape(questions), right_N, 0)
        sums = {
            "vqa_loss": (loss, mask_N.sum()),
            "vqa_score": (jnp.where(mask_N, right_N, 0).sum(), mask_N.sum()),
        }
        return loss / jnp.maximum(totals["questions"], 1), sums

    def forward(self, module: PixelBertForVqa, batch: Batch, key: jax.Array | None) -> jax.Array:
        """Logits NxA, N = B*K."""
        return module.answer_head(read_pairs(module.model, batch, key)[:, 0])

    def predict(self, module: PixelBertForVqa, batch: Batch) -> jax.Array:
        """The best answer of each question, BxK."""
        return self.forward(module, batch, None).argmax(-1).reshape(batch["pair_mask"].shape)
