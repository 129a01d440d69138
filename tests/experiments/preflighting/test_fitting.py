"""The order of the attempts until a step fits."""

import jax
import pytest

from experiments.preflighting.estimate import Counts
from experiments.preflighting.fitting import changes, search
from experiments.preflighting.program import Compiled, Memory, TooLarge, complete
from experiments.run.config_flags import override
from pixelbert_jax.errors import ConfigError
from tests.experiments.tiny_config import get_config


@pytest.fixture(scope="module")
def config():
    return complete(get_config())


def small_result(total, canvas=(48, 48)):
    counts = Counts(1e9, 1e6, 0, ())
    return Compiled(canvas, 1.0, Memory(total, 0, 0, 0, 0), counts, ())


ORDER = [
    {"model.encoder.remat": "full", "model.backbone.remat": "true"},
    {"mesh.data": "-1", "mesh.fsdp": "8"},
    {"train.accumulation": "2"},
    {"train.accumulation": "4"},
]


def expected_changes(parts):
    """Each with all before it."""
    kept, expected = {}, []
    for part in parts:
        kept = kept | part
        expected.append(kept)
    return expected


def test_order_of_the_search(config):
    larger = override(config, {"data.batch_images": "32"})
    assert list(changes(larger, jax.devices())) == expected_changes(ORDER)
    full = override(larger, {"model.encoder.remat": "full", "model.backbone.remat": "true", "mesh.fsdp": "8"})
    assert list(changes(full, jax.devices())) == expected_changes(ORDER[2:])
    half = override(larger, {"model.backbone.remat": "true", "train.accumulation": "2"})
    assert list(changes(half, jax.devices())) == expected_changes([{"model.encoder.remat": "full"}, ORDER[1], ORDER[3]])
    uneven = override(larger, {"data.batch_images": "96"})  # 12 a device: 8 turns would not divide them
    assert list(changes(uneven, jax.devices()))[-1]["train.accumulation"] == "4"


def test_shares_of_many_devices(config, monkeypatch):
    """A few chips first, then all; sizes that JAX cannot lay out are skipped."""
    many = override(config, {"data.batch_images": "64", "evaluation.batch_images": "64"})
    for refused, shares in (((), ["8", "64"]), ((8,), ["16", "64"]), ((8, 16, 32), ["64"])):

        def accept(config, devices, refused=refused):
            if config.mesh.fsdp in refused:
                raise ConfigError("no")

        monkeypatch.setattr("experiments.preflighting.fitting.mesh_of", accept)
        found = [change["mesh.fsdp"] for change in changes(many, [None] * 64) if "mesh.fsdp" in change]
        assert found == shares


@pytest.mark.parametrize(("limit", "found"), [(6, 3), (3, 3), (2, None), (0, None)])
def test_the_first_that_fits_is_given(config, limit, found):
    larger = override(config, {"data.batch_images": "32"})
    attempts, configs = [], []

    def compiler(config, mesh, canvas):
        configs.append(config)
        assert canvas == (48, 48)
        return TooLarge(canvas, 1.0, None) if len(configs) == 1 else small_result(100 - 10 * len(configs))

    def small_enough(result):
        return isinstance(result, Compiled) and result.memory.total <= 70

    attempt = search(larger, jax.devices(), (48, 48), small_enough, limit, attempts.append, compiler)
    assert len(attempts) == len(configs) == min(limit, 3)
    assert [a.overrides for a in attempts] == expected_changes(ORDER)[: len(attempts)]
    if found is None:
        assert attempt is None
        return
    assert attempt.overrides == expected_changes(ORDER)[found - 1]
    assert configs[-1].train.accumulation == 2 and configs[-1].mesh.fsdp == 8
    assert configs[-1].model.encoder.remat == "full" and configs[-1].model.backbone.remat
    assert attempt.flags.endswith("--config.mesh.data=-1 --config.mesh.fsdp=8 --config.train.accumulation=2")
