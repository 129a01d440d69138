"""The GPU benchmark at a tiny size on the CPU: its parts run, a full memory ends them well, and nothing is lost."""

import contextlib
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from absl.testing import flagsaver

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import attention, lowerings, models, ours, parts
from benchmarks.gpu import trials as trials_module
from benchmarks.gpu.parts import findings
from benchmarks.gpu.trials import is_out_of_memory, next_size, trials
from experiments.run.config_flags import load_config
from pixelbert_jax.errors import ConfigError

LONG = math.inf
CARD = {"card": "it", "card_gib": 140.0}


class Card:
    """A memory of `limit` GiB, of which a step takes 10 and 2 an image; its peak never falls, and a trial that does
    not fit fills it."""

    def __init__(self, limit, *, tells=True, most=LONG):
        self.limit, self.tells, self.most, self.tried, self.peak = limit, tells, most, [], 0

    def __call__(self, images):
        self.tried.append(images)
        self.peak = max(self.peak, min(10 + 2 * images, self.limit))
        if 10 + 2 * images > self.limit or images > self.most:
            self.peak = self.limit
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes")
        return {"pairs": images, "pairs_per_second": 1.0, "peak_gib": self.peak if self.tells else None}


@pytest.fixture
def quick_collection(monkeypatch):
    """Objects of other tests are not gone through after each trial."""
    monkeypatch.setattr(trials_module, "gc", SimpleNamespace(collect=lambda: None))


def run(card, **fields):
    """What a few trials find; without an end there would be more."""
    found = trials(card, **{"first": 4, "most": 1000, "limit": card.limit, "until": LONG} | fields)
    return list(itertools.islice(found, 50))


def test_the_largest_is_guessed_from_the_memory_that_was_taken(quick_collection):
    card = Card(78)
    found = run(card)
    assert card.tried == [4, 8, 32] and found[-1] == {"ended": "memory is full"}  # 34 would fill it to the last


def test_without_figures_of_memory_sizes_are_doubled_and_then_halved_between(quick_collection):
    card = Card(78, tells=False)
    found = run(card)
    assert card.tried[:5] == [4, 8, 16, 32, 64] and max(f["images"] for f in found if "pairs" in f) >= 32
    assert [f["images"] for f in found if f.get("out_of_memory")] == [64, 48, 40, 36]
    assert found[-1] == {"ended": "memory is full"}


def test_a_trial_that_failed_does_not_spoil_the_next_guess(quick_collection):
    """The peak is that of the failed one from then on; sizes are halved between, and what fits is found."""
    card = Card(78, most=21)
    found = run(card)
    assert card.tried == [4, 8, 32, 20, 26, 23] and found[-1] == {"ended": "memory is full"}
    assert max(trial["images"] for trial in found if "pairs" in trial) == 20


@pytest.mark.parametrize(
    ("before", "after", "told"), [(None, None, None), (0, 3 << 30, 3.0), (None, 3 << 30, 3.0), (3 << 30, 3 << 30, None)]
)
def test_a_peak_is_told_of_the_trial_that_raised_it(before, after, told):
    assert ours.peak_gib(before, after) == told


def test_a_first_size_that_does_not_fit_is_halved(quick_collection):
    card = Card(13)
    found = run(card)
    assert card.tried == [4, 2, 1] and "pairs" in found[2]
    assert run(Card(11))[-1] == {"ended": "memory is full"}


def test_memory_may_count_as_full(quick_collection):
    card = Card(78)
    found = run(card, full_at=8)
    assert [f["images"] for f in found if f.get("out_of_memory")] == [8] and card.tried == [4, 6, 7]


def test_the_most_images_are_not_exceeded(quick_collection):
    card = Card(78)
    found = run(card, most=6)
    assert card.tried == [4, 6] and found[-1]["ended"].startswith("the most")


def test_no_trial_is_begun_without_time_for_it(quick_collection):
    now = [100.0]

    def slow(images):
        now[0] += 10.0
        return {"peak_gib": None}

    fields = {"first": 1, "most": 9, "limit": 1, "clock": lambda: now[0]}
    found = list(trials(slow, until=121.0, **fields))
    assert len(found) == 2 and found[-1] == {"ended": "no time for a trial of 2 images"}
    now[0] = 100.0
    assert [trial.get("images") for trial in trials(slow, until=122.0, **fields)] == [1, 2, None]


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


def test_a_trial_that_gains_little_is_skipped():
    assert next_size([(16, 42.0), (32, 74.0)], [], 4, 78) == 0
    assert next_size([(16, 42.0), (30, 70.0)], [33], 4, 200) == 0
    assert next_size([(16, 42.0), (20, 50.0)], [], 4, 1000) == 160  # at most eight times the last


@pytest.fixture(scope="module")
def torch():
    """PyTorch on one thread, which is enough for so little; without it a test of the peer is skipped."""
    found = pytest.importorskip("torch")
    before = found.get_num_threads()
    found.set_num_threads(1)
    yield found
    found.set_num_threads(before)


TINY = {"tiny": True, "first_images": 1, "most_images": 2, "timed_steps": 1, "full_at": 2}


def found_by(part, **values):
    config = load_config(models.CONFIGS.get(part.partition("_")[0]), {}) if "_" in part else None
    with flagsaver.flagsaver(**TINY | values):
        return list(findings(part, config, LONG))


def test_our_step():
    """Memory counts as full at two images."""
    shape, counted, *found = found_by("x152_ours_dots")
    assert shape == {"canvas": [64, 64], "image": [64, 64], "texts_per_image": 2}
    assert counted["gigaflop_a_pair"] > 0
    assert [trial.get("pairs") for trial in found] == [2, None, None]
    assert found[0]["pairs_per_second"] > 0 and found[0]["peak_gib"] is None
    assert found[1]["out_of_memory"] and found[2] == {"ended": "memory is full"}


def test_what_is_recomputed_is_the_part_s():
    r50, remats = load_config(models.CONFIGS["r50"], {}), models.REMATS
    configs = {name: models.with_remat(r50, name) for name in remats}
    assert {n: (c.model.backbone.remat, c.model.encoder.remat) for n, c in configs.items()} == remats
    assert all(config.model.backbone.frozen_parts == 0 for config in configs.values())
    assert all(config.model.dtype == "bfloat16" for config in configs.values())


def test_the_peer(torch, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = found_by("r50_torch", most_images=1)[1:]
    assert [trial.get("pairs") for trial in found] == [2, None] and found[0]["pairs_per_second"] > 0
    from benchmarks.harness.torch_peer import TorchPixelBert, make_step, torch_batch
    from benchmarks.pretraining_step import random_batch

    config = models.tiny(load_config(models.CONFIGS["r50"], {}))
    batch = torch_batch(random_batch(config, 2, 100))
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
    monkeypatch.delitem(sys.modules, "benchmarks.harness.torch_peer", raising=False)
    with pytest.raises(ConfigError, match="needs torch; pip install torch"):
        found_by("r50_torch")


@pytest.mark.parametrize("part", ["rates", "r50_ours_none"])
def test_the_paper_s_size_is_not_tried_on_a_cpu(part):
    with pytest.raises(ConfigError, match="JAX sees no card"):
        found_by(part, tiny=False)


def test_nor_is_the_peer_s(torch, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="PyTorch sees no card"):
        found_by("r50_torch", tiny=False)


def test_lowerings(monkeypatch):
    monkeypatch.setattr(lowerings, "CHANNELS", (128,))
    found = found_by("lowerings")
    assert [case["convolution"] for case in found] == ["3x3, 32 groups", "1x1", "1x1"]
    assert list(found[0]["milliseconds"]) == ["native", "merged_to_32", "merged_to_64", "merged_to_128"]
    assert all(value > 0 for case in found for value in case["milliseconds"].values())
    assert list(lowerings.lowerings((64, 64), 1, -math.inf)) == [{"ended": "no time for more"}]


def test_attention(monkeypatch):
    """Each way computes the same; one that the device does not have says why, and the others are measured."""
    found = found_by("attention")
    assert [case["attention"] for case in found] == [[2, 9, 2, 8]]
    assert found[0]["milliseconds"].keys() == {"ours", "xla"} and "cudnn" in found[0]["errors"]
    keys = jax.random.split(jax.random.key(0), 3)
    inputs = [jax.random.normal(key, (2, 9, 2, 8)) for key in keys]
    mask = np.arange(9)[None] < np.array([[9], [4]])
    ours, other = (attention.WAYS[name](*inputs, mask) for name in ("ours", "xla"))
    np.testing.assert_allclose(ours, other, atol=1e-5)
    assert list(attention.attention(-math.inf)) == [{"ended": "no time for more"}]


def test_sides_take_turns(torch, monkeypatch):
    """Each in a process of its own, with the part's texts per image and half of the memory."""
    seen = []

    def in_this_machine(commands, turns, environments, **named):
        seen.append((commands, environments, named))
        return alternate(commands, turns, {"torch": {"CUDA_VISIBLE_DEVICES": ""}}, **named)

    alternate = parts.alternate
    monkeypatch.setattr(parts, "alternate", in_this_machine)
    with monkeypatch.context() as patch:  # the process that starts them takes nothing of the card
        patch.setattr(jax, "default_backend", lambda: pytest.fail("JAX was started"))
        (found,) = found_by("x152_turns_3", turn_images=2)
    assert found["pairs"] == 6 and found["texts_per_image"] == 3 and found["ratio"]["median"] > 0
    assert found["turns_pairs_per_second"]["ours"] == pytest.approx(6 / found["seconds"]["ours"]["median"], rel=1e-3)
    assert found["first_call_seconds"].keys() == {"ours", "torch"}
    ((commands, environments, named),) = seen
    assert named == {"together": True} and environments == {"torch": {"JAX_PLATFORMS": "cpu"}}
    assert "--memory_gib=39.0" in commands["torch"] and commands["torch"][-1] == "--side=torch"


def part_of(*found):
    return {"findings": list(found)}


PARTS = {
    "rates": part_of({"device": "it"}, {"matrix_rate_tflops": 600.0}),
    "r50_ours_none": part_of(
        {"gigaflop_a_pair": 150.0},
        {"pairs": 64, "pairs_per_second": 1000.0},
        {"pairs": 128, "pairs_per_second": 2000.0},
        {"images": 64, "out_of_memory": True},
    ),
    "r50_ours_full": part_of({"pairs": 320, "pairs_per_second": 1500.0}, {"pairs": 400, "pairs_per_second": 900.0}),
    "r50_torch": part_of(
        {"pairs": 64, "pairs_per_second": 1600.0},
        {"pairs": 160, "pairs_per_second": 1000.0},
        {"ended": "memory is full"},
    ),
    "lowerings": part_of(
        {"convolution": "1x1", "channels": [4, 8], "milliseconds": {"convolution": 6.0, "product": 3.0}}
    ),
}


def test_summary():
    """The best of each side is compared; of memory, the largest of ours that is as fast as the peer's largest."""
    rows = {row["what"]: row for row in gpu.summary(PARTS)}
    speed = rows["r50: pairs per second, ours over PyTorch's"]
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
    assert [row["what"] for row in alone] == ["r50: ours, pairs per second"]


def test_summary_of_turns():
    found = {
        "pairs": 32,
        "turns_pairs_per_second": {"ours": 320.0, "torch": 160.0},
        "first_call_seconds": {"ours": 40.0, "torch": 60.0},
        "ratio": {"median": 0.5},
    }
    times = {"ours": 3.0, "xla": 2.0, "cudnn": 1.5}
    attended = part_of({"attention": [2, 9, 2, 8], "milliseconds": times})
    rows = {row["what"]: row for row in gpu.summary({"r50_turns_4": part_of(found), "attention": attended})}
    ratio = rows["r50, texts per image 4: pairs per second, ours over PyTorch's, in turns"]
    assert (ratio["found"], ratio["met"]) == (2.0, True)
    assert rows["r50, texts per image 4: torch, pairs per second"]["first_call_seconds"] == 60.0
    assert rows["attention [2, 9, 2, 8]: ours over cudnn, time"]["found"] == 2.0


@pytest.mark.parametrize(
    ("part", "finding", "broken"),
    [
        ("r50_torch", {"images": 1, "error": "no compiler"}, True),
        ("r50_turns_4", {"missing": "The side torch ended with exit code 1"}, True),
        ("r50_turns_4", {"missing": "The side ours ended with exit code 1"}, False),
        ("r50_turns_4_eager", {"missing": "The side torch ended with exit code 1"}, False),
        ("r50_turns_4", {"pairs": 1}, False),
    ],
)
def test_a_compiled_peer_that_fails(part, finding, broken):
    assert gpu.is_peer_broken(part, part_of(finding)) is broken


def test_the_peer_has_the_card_alone_and_as_much_memory():
    with flagsaver.flagsaver(memory_gib=70.0, xla_flags="--xla_a=b"):
        ours, peer, rates = (gpu.environment(part, 140.0, "kept") for part in ("r50_ours_none", "r50_torch", "rates"))
        turns = gpu.environment("r50_turns_4", 140.0, "kept")
    assert turns["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.2500" and turns["XLA_FLAGS"].endswith("--xla_a=b")
    assert ours["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.5000" and ours["XLA_FLAGS"].endswith("--xla_a=b")
    assert peer["JAX_PLATFORMS"] == "cpu" and "XLA_FLAGS" not in rates


@contextlib.contextmanager
def exit_code(code):
    """A block that ends the program so."""
    with pytest.raises(SystemExit) as ended:
        yield
    assert ended.value.code == code


WELL = part_of({"pairs": 2, "pairs_per_second": 1.0}, {"ended": "memory is full"})


@pytest.mark.parametrize(
    ("parts", "names"),
    [
        ({"rates": PARTS["rates"], "lowerings": PARTS["lowerings"], "r50_ours_none": WELL}, []),
        ({"rates": PARTS["rates"], "r50_ours_none": WELL | {"exit_code": 3}}, ["r50_ours_none"]),
        ({"rates": PARTS["rates"], "r50_ours_none": part_of(*WELL["findings"], {"error": "no"})}, ["r50_ours_none"]),
        ({"rates": PARTS["rates"], "r50_ours_none": part_of({"missing": "a card"})}, ["r50_ours_none"]),
        ({"rates": PARTS["rates"], "r50_ours_none": part_of({"canvas": [1, 1]})}, ["r50_ours_none"]),
        ({"rates": PARTS["rates"], "r50_ours_none": {"findings": WELL["findings"], "cut": "over"}}, []),
        ({"rates": PARTS["rates"], "r50_torch": part_of({"missing": "torch"}), "lowerings": {"left_out": "late"}}, []),
        ({"r50_torch": part_of({"images": 1, "error": "no compiler"}), "r50_torch_eager": WELL}, []),
        ({"r50_torch": part_of({"missing": "torch"}), "rates": {"left_out": "late"}}, ["r50_torch", "rates"]),
    ],
)
def test_parts_that_failed(parts, names):
    """Where nothing was measured, none is excused."""
    assert gpu.failed(parts) == names


def test_without_a_card_nothing_is_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "card", dict)
    monkeypatch.setattr(gpu, "DEVICES", tmp_path)
    tried = []
    monkeypatch.setattr(gpu, "measure_part", lambda part, *given, **named: tried.append(part) or PARTS["rates"])
    with flagsaver.flagsaver(parts=["rates"], output=None):
        with pytest.raises(ConfigError, match=r"no GPU here.*give --tiny"):
            gpu.main()
        assert not tried
        (tmp_path / "nvidia0").touch()
        gpu.main()
    (tmp_path / "nvidia0").unlink()
    with flagsaver.flagsaver(parts=["rates"], output=None, tiny=True):
        gpu.main()
    assert tried == ["rates", "rates"]


def test_parts_that_are_cut_keep_what_they_found(tmp_path, monkeypatch):
    """The results are whole after each part, and those that have no time are named."""
    output, seen = tmp_path / "gpu.json", []

    def stand_in(command, seconds, environment):
        lines = next(argument for argument in command if argument.startswith("--lines=")).removeprefix("--lines=")
        seen.append((command, json.loads(output.read_text()) if output.exists() else None))
        with open(lines, "w") as file:  # noqa: PTH123
            file.write('{"gigaflop_a_pair": 2.0}\n{"pairs": 3, "pairs_per_second": 5.0}\n{"pairs": 6, "pai')
        return {0: None, 1: 3}[len(seen) - 1], f"a\nlast words in {sys.prefix}/lib and {Path.cwd()}/gpu.py"

    monkeypatch.setattr(gpu, "run", stand_in)
    monkeypatch.setattr(gpu, "card", CARD.copy)
    parts = ["r50_ours_none", "r50_ours_full"]
    with flagsaver.flagsaver(output=str(output), parts=parts, time_limit=500.0), exit_code(1):
        gpu.main()
    found = json.loads(output.read_text())["parts"]
    assert found["r50_ours_none"]["findings"][1:] == [{"pairs": 3, "pairs_per_second": 5.0}]
    assert found["r50_ours_none"]["cut"] == "its 135 seconds were over"
    assert (
        found["r50_ours_full"]["exit_code"] == 3
        and found["r50_ours_full"]["printed"][-1] == "last words in lib and gpu.py"
    )
    assert [*seen[1][1]["parts"]] == parts[:1]
    assert "--count_operations=true" in seen[0][0] and "--count_operations=false" in seen[1][0]
    with flagsaver.flagsaver(output=str(output), parts=parts, time_limit=3.0), exit_code(1):
        gpu.main()
    assert all("seconds were left" in part["left_out"] for part in json.loads(output.read_text())["parts"].values())


@pytest.mark.parametrize(
    ("printed", "found"),
    [
        ("NVIDIA H200, 143771, 570.1\n", {"card": "NVIDIA H200", "card_gib": 140.4, "driver": "570.1"}),
        ("NVIDIA A100 MIG, [N/A], 570.1\n", {"card": "NVIDIA A100 MIG", "driver": "570.1"}),
        ("No devices were found\n", {}),
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
        return part_of(
            {"images": 1, "error": "no compiler"} if part == "r50_torch" else {"pairs_per_second": 1.0, "pairs": 1}
        )

    monkeypatch.setattr(gpu, "measure_part", stand_in)
    monkeypatch.setattr(gpu, "card", CARD.copy)
    with flagsaver.flagsaver(parts=["r50_torch", "x152_torch"], output=None):
        gpu.main()
    assert tried == ["r50_torch", "r50_torch_eager", "x152_torch"]
    assert gpu.environment("r50_torch_eager", None, "kept")["JAX_PLATFORMS"] == "cpu"
    assert parts.is_part("r50_torch_eager")


def test_unknown_parts_are_refused():
    for part in ("r50_ours", "r50_peer", "r60_torch", "rate", "r50_turns", "r50_turns_x"):
        with flagsaver.flagsaver(parts=[part]), pytest.raises(ConfigError, match=f"{part}.*is none; choose from rates"):
            gpu.main()
    assert all(map(parts.is_part, gpu.SECONDS | gpu.TRIAL_SECONDS)) and sum(gpu.SECONDS.values()) <= 500


def test_the_program(tmp_path, monkeypatch, capsys):
    """A part in its process: the machine and its rates."""
    output = tmp_path / "gpu.json"
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setitem(gpu.SECONDS, "rates", 3600)
    with flagsaver.flagsaver(output=str(output), parts=["rates"], time_limit=3600.0, **TINY):
        gpu.main()
    found = json.loads(output.read_text())
    machine, matrix, copy = found["parts"]["rates"]["findings"]
    assert machine["devices"] == 1 and machine["host"] and "torch" in machine
    assert matrix["matrix_rate_tflops"] > 0 and copy["copy_rate_gb_per_second"] > 0 and found["summary"] == []
    assert jax.devices()[0].platform == "cpu" and capsys.readouterr().out.startswith("rates: {")
