"""The GPU benchmark at a tiny size on the CPU: its parts run, a full memory ends them well, and nothing is lost."""

import json
import math
import subprocess
import sys
import time

import jax
import pytest
from absl.testing import flagsaver

from benchmarks import gpu, gpu_parts
from benchmarks.gpu_parts import findings, is_out_of_memory, next_size, trials
from experiments.config_flags import load_config
from pixelbert_jax.errors import ConfigError

LONG = math.inf


class Card:
    """A memory of `limit` GiB, of which a step takes 10 and 2 a picture."""

    def __init__(self, limit, *, tells=True):
        self.limit, self.tells, self.tried = limit, tells, []

    def __call__(self, images):
        self.tried.append(images)
        if 10 + 2 * images > self.limit:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes")
        return {"pairs": images, "pairs_a_second": 1.0, "peak_gib": 10 + 2 * images if self.tells else None}


def run(card, **fields):
    return list(trials(card, **{"first": 4, "most": 1000, "limit": card.limit, "until": LONG} | fields))


def test_the_largest_is_guessed_from_the_memory_that_was_taken():
    card = Card(78)
    found = run(card)
    assert card.tried == [4, 8, 32] and found[-1] == {"ended": "memory is full"}  # 34 would fill it to the last


def test_without_figures_of_memory_sizes_are_doubled_and_then_halved_between():
    card = Card(78, tells=False)
    found = run(card)
    assert card.tried[:5] == [4, 8, 16, 32, 64] and max(f["images"] for f in found if "pairs" in f) >= 32
    assert [f["images"] for f in found if f.get("out_of_memory")] == [64, 48, 40, 36]
    assert found[-1] == {"ended": "memory is full"}


def test_a_first_size_that_does_not_fit_is_halved():
    card = Card(13)
    found = run(card)
    assert card.tried == [4, 2, 1] and "pairs" in found[2]
    assert run(Card(11))[-1] == {"ended": "memory is full"}


def test_memory_may_count_as_full():
    card = Card(78)
    found = run(card, full_at=8)
    assert [f["images"] for f in found if f.get("out_of_memory")] == [8] and card.tried == [4, 6, 7]


def test_the_most_pictures_are_not_exceeded():
    card = Card(78)
    found = run(card, most=6)
    assert card.tried == [4, 6] and found[-1]["ended"].startswith("the most")


def test_no_trial_is_begun_without_time_for_it():
    def slow(images):
        time.sleep(0.2)
        return {"peak_gib": None}

    found = list(trials(slow, first=1, most=9, limit=1, until=time.monotonic() + 0.3))
    assert len(found) == 2 and found[-1] == {"ended": "no time for a trial of 2 pictures"}


def test_another_error_ends_the_trials():
    def broken(images):
        raise ValueError("no such\nalgorithm")

    assert run_all(broken) == [{"images": 4, "error": "ValueError: no such algorithm"}]


def run_all(attempt):
    return list(trials(attempt, first=4, most=9, limit=1, until=LONG))


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 7 bytes."), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("INTERNAL: Failed to allocate 12 bytes for new constant"), True),
        (MemoryError(), True),
        (RuntimeError("INTERNAL: the algorithm is unknown"), False),
    ],
)
def test_errors_of_a_full_memory(error, full):
    assert is_out_of_memory(error) is full


def test_a_trial_that_gains_little_is_left_out():
    assert next_size([(16, 42.0), (32, 74.0)], [], 4, 78) == 0
    assert next_size([(16, 42.0), (30, 70.0)], [33], 4, 200) == 0
    assert next_size([(16, 42.0), (20, 50.0)], [], 4, 1000) == 160  # at most eight times the last


TINY = {"tiny": True, "first_images": 1, "most_images": 2, "timed_steps": 1, "full_at": 2}


def found_by(part, **values):
    config = load_config(gpu_parts.CONFIGS.get(part.partition("_")[0]), {}) if "_" in part else None
    with flagsaver.flagsaver(**TINY | values):
        return list(findings(part, config, LONG))


def test_rates():
    machine, matrix, copy = found_by("rates")
    assert machine["devices"] == 1 and machine["torch"]
    assert matrix["matrix_rate_tflops"] > 0 and copy["copy_rate_gb_a_second"] > 0


def test_our_step():
    """Memory counts as full at two pictures."""
    shape, counted, *found = found_by("x152_ours_dots")
    assert shape == {"canvas": [64, 64], "picture": [64, 64], "texts_per_image": 2}
    assert counted["gigaflop_a_pair"] > 0
    assert [trial.get("pairs") for trial in found] == [2, None, None]
    assert found[0]["pairs_a_second"] > 0 and found[0]["peak_gib"] is None
    assert found[1]["out_of_memory"] and found[2] == {"ended": "memory is full"}


def test_what_is_recomputed_is_the_part_s():
    configs = {name: gpu_parts.with_remat(load_config(gpu_parts.CONFIGS["r50"], {}), name) for name in gpu_parts.REMATS}
    assert {n: (c.model.backbone.remat, c.model.encoder.remat) for n, c in configs.items()} == gpu_parts.REMATS
    assert all(config.model.backbone.frozen_parts == 0 for config in configs.values())
    assert all(config.model.dtype == "bfloat16" for config in configs.values())


def test_the_peer():
    torch = pytest.importorskip("torch")
    found = found_by("r50_torch", most_images=1)[1:]
    assert [trial.get("pairs") for trial in found] == [2, None] and found[0]["pairs_a_second"] > 0
    from benchmarks.torch_peer import TorchPixelBert, make_step, torch_batch

    config = gpu_parts.tiny(load_config(gpu_parts.CONFIGS["r50"], {}))
    batch = torch_batch(gpu_parts.random_batch(config, 2, 100))
    types, losses = {}, {}
    for bfloat16 in (False, True):
        torch.manual_seed(0)
        peer = TorchPixelBert(config.model)
        peer.linear.register_forward_hook(lambda _, inputs, y, bfloat16=bfloat16: types.update({bfloat16: y.dtype}))
        step = make_step(peer, config.optimizer, compiled=False, bfloat16=bfloat16)
        losses[bfloat16] = [step(batch) for _ in range(2)]
        assert {p.dtype for p in peer.parameters()} == {torch.float32}
    assert types == {False: torch.float32, True: torch.bfloat16}
    assert losses[True] == pytest.approx(losses[False], rel=0.05) and losses[True] != losses[False]


def test_without_pytorch_ours_is_measured_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "benchmarks.torch_peer", raising=False)
    with pytest.raises(ConfigError, match="needs torch; pip install torch"):
        found_by("r50_torch")


def test_the_paper_s_size_is_not_tried_on_a_cpu():
    for part, said in (("rates", "JAX sees no card"), ("r50_ours_none", "JAX sees no card"), ("r50_torch", "PyTorch")):
        with pytest.raises(ConfigError, match=said):
            found_by(part, tiny=False)


def test_lowerings(monkeypatch):
    monkeypatch.setattr(gpu_parts, "CHANNELS", (128,))
    found = found_by("lowerings")
    assert [case["convolution"] for case in found] == ["3x3, 32 groups", "1x1", "1x1"]
    assert list(found[0]["milliseconds"]) == ["native", "merged_to_32", "merged_to_64", "merged_to_128"]
    assert all(value > 0 for case in found for value in case["milliseconds"].values())
    assert list(gpu_parts.lowerings((64, 64), 1, time.monotonic() - 1)) == [{"ended": "no time for more"}]


def part_of(*found):
    return {"findings": list(found)}


PARTS = {
    "rates": part_of({"device": "it"}, {"matrix_rate_tflops": 600.0}),
    "r50_ours_none": part_of(
        {"gigaflop_a_pair": 150.0},
        {"pairs": 64, "pairs_a_second": 1000.0},
        {"pairs": 128, "pairs_a_second": 2000.0},
        {"images": 64, "out_of_memory": True},
    ),
    "r50_ours_full": part_of({"pairs": 320, "pairs_a_second": 1500.0}, {"pairs": 400, "pairs_a_second": 900.0}),
    "r50_torch": part_of(
        {"pairs": 64, "pairs_a_second": 1600.0},
        {"pairs": 160, "pairs_a_second": 1000.0},
        {"ended": "memory is full"},
    ),
    "lowerings": part_of(
        {"convolution": "1x1", "channels": [4, 8], "milliseconds": {"convolution": 6.0, "product": 3.0}}
    ),
}


def test_summary():
    """The best of each side is compared; of memory, the largest of ours that is as fast as the peer's largest."""
    rows = {row["what"]: row for row in gpu.summary(PARTS)}
    speed = rows["r50: pairs a second, ours over PyTorch's"]
    assert (speed["found"], speed["goal"], speed["met"]) == (1.25, 1.3, False)
    memory = rows["r50: pairs that fit, ours (no slower) over PyTorch's"]
    assert (memory["found"], memory["ours"], memory["torch"], memory["met"]) == (2.0, 320, 160, True)
    share = rows["r50: ours, share of the card's matrix rate"]
    assert (share["found"], share["met"]) == (0.5, True)
    assert rows["r50: torch, share of the card's matrix rate"]["found"] == 0.4
    assert rows["1x1, [4, 8]: product over convolution"]["found"] == 2.0
    printed = gpu.table(list(rows.values()))
    assert "1.25  goal 1.3   not met" in printed and len(printed.splitlines()) == len(rows)
    cut = PARTS | {"r50_torch": {"findings": PARTS["r50_torch"]["findings"][:2]}}  # its largest is not known
    assert not [row for row in gpu.summary(cut) if "fit" in row["what"]]
    alone = gpu.summary({"r50_ours_none": PARTS["r50_ours_none"]})
    assert [row["what"] for row in alone] == ["r50: ours, pairs a second"]


def test_the_peer_has_the_card_alone_and_as_much_memory():
    with flagsaver.flagsaver(memory_gib=70.0, xla_flags="--xla_a=b"):
        ours, peer, rates = (gpu.environment(part, 140.0, "kept") for part in ("r50_ours_none", "r50_torch", "rates"))
    assert ours["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.5000" and ours["XLA_FLAGS"].endswith("--xla_a=b")
    assert peer["JAX_PLATFORMS"] == "cpu" and "XLA_FLAGS" not in rates


def test_parts_that_are_cut_keep_what_they_found(tmp_path, monkeypatch):
    """The results are whole after each part, and those that have no time are named."""
    output, seen = tmp_path / "gpu.json", []

    def stand_in(command, seconds, environment):
        lines = next(argument for argument in command if argument.startswith("--lines=")).removeprefix("--lines=")
        seen.append((command, json.loads(output.read_text()) if output.exists() else None))
        with open(lines, "w") as file:  # noqa: PTH123
            file.write('{"gigaflop_a_pair": 2.0}\n{"pairs": 3, "pairs_a_second": 5.0}\n{"pairs": 6, "pai')
        return {0: None, 1: 3}[len(seen) - 1], "a\nlast words"

    monkeypatch.setattr(gpu, "run", stand_in)
    monkeypatch.setattr(gpu, "card", dict)
    parts = ["r50_ours_none", "r50_ours_full"]
    with flagsaver.flagsaver(output=str(output), parts=parts, time_limit=500.0):
        gpu.main()
    found = json.loads(output.read_text())["parts"]
    assert found["r50_ours_none"]["findings"][1:] == [{"pairs": 3, "pairs_a_second": 5.0}]
    assert found["r50_ours_none"]["cut"] == "its 135 seconds were over"
    assert found["r50_ours_full"]["exit_code"] == 3 and found["r50_ours_full"]["printed"][-1] == "last words"
    assert [*seen[1][1]["parts"]] == parts[:1]
    assert "--count_operations=true" in seen[0][0] and "--count_operations=false" in seen[1][0]
    with flagsaver.flagsaver(output=str(output), parts=parts, time_limit=3.0):
        gpu.main()
    assert all("seconds were left" in part["left_out"] for part in json.loads(output.read_text())["parts"].values())


@pytest.mark.parametrize(
    ("printed", "found"),
    [
        ("NVIDIA H200, 143771, 570.1\n", {"card": "NVIDIA H200", "card_gib": 140.4, "driver": "570.1"}),
        ("NVIDIA A100 MIG, [N/A], 570.1\n", {}),
    ],
)
def test_the_card_is_the_driver_s(printed, found, monkeypatch):
    answer = subprocess.CompletedProcess([], 0, printed)
    monkeypatch.setattr(gpu.subprocess, "run", lambda *arguments, **named: answer)
    assert gpu.card() == found


def test_the_peer_is_measured_uncompiled_where_compiling_fails(monkeypatch):
    tried = []

    def stand_in(part, seconds, environment, *, count):
        tried.append(part)
        return {"findings": [{"images": 1, "error": "no compiler"}] if part == "r50_torch" else []}

    monkeypatch.setattr(gpu, "measure_part", stand_in)
    monkeypatch.setattr(gpu, "card", dict)
    with flagsaver.flagsaver(parts=["r50_torch", "x152_torch"], output=None):
        gpu.main()
    assert tried == ["r50_torch", "r50_torch_eager", "x152_torch"]
    assert gpu.environment("r50_torch_eager", None, "kept")["JAX_PLATFORMS"] == "cpu"
    assert gpu_parts.is_part("r50_torch_eager")


def test_unknown_parts_are_refused():
    for part in ("r50_ours", "r50_peer", "r60_torch", "rate"):
        with flagsaver.flagsaver(parts=[part]), pytest.raises(ConfigError, match=f"{part}.*is none; choose from rates"):
            gpu.main()
    assert all(map(gpu_parts.is_part, gpu.SECONDS))


def test_the_program(tmp_path, monkeypatch, capsys):
    """A part in its process."""
    output = tmp_path / "gpu.json"
    monkeypatch.setenv("XLA_FLAGS", "")
    with flagsaver.flagsaver(output=str(output), parts=["rates"], **TINY):
        gpu.main()
    found = json.loads(output.read_text())
    assert [*found["parts"]["rates"]["findings"][1]] == ["matrix_rate_tflops"] and found["summary"] == []
    assert jax.devices()[0].platform == "cpu" and capsys.readouterr().out.startswith("rates: {")
