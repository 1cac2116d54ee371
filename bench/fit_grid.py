"""Fit the coefficients that find beats, bars and keys in notes: `mt3_infer/symbolic/grid_weights.json`.

    python bench/fit_grid.py FOLDER         about an hour; FOLDER keeps the scores that were read

Works of music21's corpus and grooves composed by rule are played by the rule of `performances.py` and made to look
like the notes of a network; their beats and keys are known. A network with one hidden layer learns which
hypothesis of `mt3_infer.symbolic.meter` is right, a linear model which key. Then a linear layer beside the network
learns from others, many of which are unusual, what to correct. The clips that judge take no part.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from grid_scores import WORKS, excerpt, load_scores, read_corpus
from grooves import compose
from numpy.typing import NDArray
from performances import seeded
from performing import Manner, Performance, perform
from scores import Score

from mt3_infer import Note
from mt3_infer.symbolic.grid import MODES
from mt3_infer.symbolic.key import describe as describe_key
from mt3_infer.symbolic.meter import describe, edges_of_parts, list_hypotheses
from mt3_infer.symbolic.metrical_features import Harmony, measure
from mt3_infer.symbolic.pulse import find_accents, find_pulses

TARGET = Path(__file__).parents[1] / "mt3_infer/symbolic/grid_weights.json"
EXAMPLES, VALIDATION = 6000, 600
USUAL_AGAIN, UNUSUAL = 600, 500  # examples of the linear layer
GROOVES, UNUSUAL_GROOVES = 0.4, 0.8  # share of the examples
NETWORKS, HIDDEN, DROPOUT, EPOCHS, RATE, DECAY, BATCH = 3, 48, 0.15, 16, 2e-3, 0.02, 64
KEY_PENALTY, LINEAR_PENALTY = 2e-4, 0.08
RIGHT = 0.8  # F of beats and of downbeats from which a hypothesis is right
METERS_THAT_WE_HAVE = {(2, 4), (3, 4), (4, 4), (6, 8), (9, 8), (12, 8)}

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """Hold what is known of an example; a mode is "" if it is unknown."""

    beats: Floats
    downbeats: Floats
    division: int
    beats_in_bar: int
    key_sharps: int
    mode: str


@dataclass(frozen=True)
class Example:
    """The hypotheses of one example, (H, features), the F of their beats and downbeats, and which are right."""

    rows: Floats
    beat_f: Floats
    downbeat_f: Floats
    right: NDArray[np.bool_]


def draw(
    scores: dict[str, list[tuple[Score, str]]], random: np.random.Generator, *, unusual: bool = False
) -> tuple[list[Note], Truth] | None:
    """Return the notes of one example, as a network might find them.

    An unusual one may be faster or slower than its notes suggest, and have drums and basses on every beat.
    """
    seconds = float(random.uniform(14, 45))
    if random.random() < (UNUSUAL_GROOVES if unusual else GROOVES):
        score, mode, manner = compose(random, seconds, unusual=unusual)
    else:
        folders = sorted(scores)
        often = np.array([WORKS[folder][1] for folder in folders], float)
        works = scores[folders[int(random.choice(len(folders), p=often / often.sum()))]]
        whole, mode = works[int(random.integers(len(works)))]
        if (whole.bars[-1].num, whole.bars[-1].den) not in METERS_THAT_WE_HAVE:
            return None
        tempo = _tempo(whole, random, 1.6 if unusual else 1.0)
        cut = excerpt(whole, seconds * tempo / 60 * whole.beat_q, random) if tempo else None
        if cut is None or tempo is None:
            return None
        score, manner = cut, Manner(tempo, float(random.choice([0.02, 0.06, 0.1, 0.15])))
    gate = float(random.choice([0.6, 0.85, 0.92, 1.0]))
    score = replace(score, parts=[replace(part, gate=gate) for part in score.parts])
    performance = perform(score, manner, random)
    notes, moved = _as_found(performance, random)
    beats = np.array([(performance.time(q), number) for q, number in score.beats()]) - [moved, 0]
    bar = score.bars[-1]
    truth = Truth(
        beats[:, 0],
        beats[beats[:, 1] == 1, 0],
        3 if score.beat_q * bar.den == 12 else 2,
        round(4 * bar.num / bar.den / score.beat_q),
        score.key_sharps,
        mode,
    )
    return (notes, truth) if len(notes) > 10 and _is_audible(truth.beats, performance) else None


def _tempo(score: Score, random: np.random.Generator, spread: float) -> float | None:
    """Return a tempo at which the notes of a score are neither too fast nor too slow; None if there is none."""
    onsets = np.unique([note.q for note in score.notes])
    gaps = np.diff(onsets)[np.diff(onsets) > 0.05]
    if not len(gaps):
        return None
    compound = score.beat_q == 1.5
    natural = np.log(np.clip(60 * gaps.mean() / score.beat_q / 0.26, 40, 200))
    for _ in range(30):
        usual = 0.5 * np.log(66 if compound else 106) + 0.5 * natural
        tempo = float(np.exp(random.normal(usual, spread * (0.24 if compound else 0.16))))
        quarter = 60 / tempo / score.beat_q
        if np.quantile(gaps, 0.1) * quarter >= 0.085 and 0.14 <= gaps.mean() * quarter <= 1.1:
            return tempo
    return None


def _is_audible(beats: Floats, performance: Performance) -> bool:
    """Return True if notes begin on enough of the beats; else nobody could find them."""
    onsets = np.array([note.onset for note in performance.notes])
    return bool(np.mean(np.abs(beats[:, None] - onsets[None]).min(axis=1) < 0.06) > 0.4)


def _as_found(performance: Performance, random: np.random.Generator) -> tuple[list[Note], float]:
    """Return notes with the faults of a transcription, and by how many seconds they are early."""
    missing = float(random.choice([0, 0, 0.03, 0.08, 0.15, 0.25]))
    false = float(random.choice([0, 0, 0.03, 0.08, 0.15]))
    late = float(random.choice([0, 0, 0, 0.03]))
    velocities = str(random.choice(["constant", "noisy", "true"]))
    moved = float(random.choice([0.0, 0.2, -random.uniform(0, 2)]))
    end = performance.notes[-1].onset
    found = []
    for played in performance.notes:
        if random.random() < missing:
            continue
        is_drum = performance.score.parts[played.written.part].is_drums
        onset = played.onset - moved + random.normal(0, 0.006) + (0 if is_drum else random.uniform(0, 2 * late))
        length = (played.offset - played.onset) * float(np.exp(random.normal(0, 0.25)))
        length = 0.05 if random.random() < 0.06 else max(0.03, length)
        velocity = {"constant": 100, "noisy": int(np.clip(random.normal(70, 18), 20, 127))}.get(
            velocities, played.velocity
        )
        pitch = played.written.pitch
        found.append((onset, length, pitch, velocity, is_drum))
        if random.random() < false:
            kind = random.random()
            if kind < 0.5 and not is_drum:  # an overtone
                found.append((onset, length, pitch + int(random.choice([12, -12, 19])), velocity, False))
            elif kind < 0.75 and not is_drum:  # one note as two
                found.append((onset + length * random.random(), 0.1, pitch, velocity, False))
            else:
                step = int(random.choice([-1, 1, 2, 3, 5, 7]))
                found.append((random.uniform(0, end), 0.2, pitch + step, velocity, is_drum))
    steps = 100 if random.random() < 0.66 else 10_000  # of a second
    notes = [
        Note(round(max(0.0, on) * steps) / steps, max(0.0, on) + length, pitch, velocity, 0, is_drum)
        for on, length, pitch, velocity, is_drum in found
        if 0 <= pitch < 128
    ]
    return notes, moved


def measured(notes: list[Note], truth: Truth) -> Example | None:
    """Return the hypotheses of an example, as `mt3_infer.symbolic.meter` describes them."""
    accents = find_accents(notes)
    pulses = find_pulses(accents)
    edges = edges_of_parts(accents)
    hypotheses = list_hypotheses(len(pulses))
    harmony = Harmony(notes, float(accents.times[-1]) + 10)
    each = [measure(pulse, accents, harmony) for pulse in pulses]
    columns, rows = describe(hypotheses, each, accents, edges[0], edges[-1])
    if not columns:
        return None
    chosen = [hypotheses[column] for column in columns]
    by_pulse = [f_measure(truth.beats, pulse) for pulse in pulses]
    by_bars = {
        key: f_measure(truth.downbeats, pulses[key[0]][key[2] :: key[1]])
        for key in {(one.pulse, one.beats, one.phase) for one in chosen}
    }
    beat_f = np.array([by_pulse[one.pulse] for one in chosen])
    downbeat_f = np.array([by_bars[one.pulse, one.beats, one.phase] for one in chosen])
    meter = np.array([(one.division, one.beats) == (truth.division, truth.beats_in_bar) for one in chosen])
    return Example(rows, beat_f, downbeat_f, (beat_f >= RIGHT) & (downbeat_f >= RIGHT) & meter)


def f_measure(truth: Floats, found: Floats) -> float:
    """Return the F of beats within 70 ms."""
    pairs, used = 0, -1
    for time, place in zip(truth, np.searchsorted(found, truth), strict=True):
        for index in (place - 1, place):
            if used < index < len(found) and index >= 0 and abs(found[index] - time) <= 0.07:
                used, pairs = index, pairs + 1
                break
    return 2 * pairs / (len(truth) + len(found))


def fit_meter(examples: list[Example], validation: list[Example]) -> dict[str, Any]:
    """Return the coefficients of the network that scores hypotheses by all of their numbers but the last.

    It is the mean of several that start and learn differently: their hidden units stand beside each other.
    """
    import torch

    examples, validation = (
        [replace(example, rows=example.rows[:, :-1]) for example in part] for part in (examples, validation)
    )
    sample = np.concatenate([example.rows for example in examples[:600]])
    mean, deviation = sample.mean(axis=0), sample.std(axis=0) + 0.01
    usable = np.flatnonzero([example.right.any() for example in examples])
    hidden, bias, output = [], [], []
    for seed in range(NETWORKS):
        torch.manual_seed(seed)
        order = np.random.default_rng(seed).permutation(usable)
        batches = [
            _batch([examples[index] for index in chosen], mean, deviation)
            for chosen in np.split(order, range(BATCH, len(order), BATCH))
        ]
        network = _trained(batches, len(mean))
        hidden.append(network[1].weight.detach().numpy())
        bias.append(network[1].bias.detach().numpy())
        output.append(network[4].weight.detach().numpy()[0] / NETWORKS)
    fitted = {
        "mean": [float(f"{value:.5g}") for value in mean],
        "deviation": [float(f"{value:.5g}") for value in deviation],
        "hidden": np.round(np.concatenate(hidden).astype(float), 4).tolist(),
        "hidden_bias": np.round(np.concatenate(bias).astype(float), 4).tolist(),
        "output": np.round(np.concatenate(output).astype(float), 5).tolist(),
    }
    best = [int(_network_scores(example.rows, fitted).argmax()) for example in validation]
    beat_f = np.mean([example.beat_f[index] for example, index in zip(validation, best, strict=True)])
    downbeat_f = np.mean([example.downbeat_f[index] for example, index in zip(validation, best, strict=True)])
    click.echo(f"beat F {beat_f:.3f}, downbeat F {downbeat_f:.3f}")
    return fitted


def _network_scores(rows: Floats, network: dict[str, Any]) -> Floats:
    """Return the output of the network without a linear layer, (H,)."""
    inputs = np.clip((rows - network["mean"]) / network["deviation"], -5, 5)
    hidden = np.maximum(inputs @ np.array(network["hidden"]).T + network["hidden_bias"], 0)
    return np.asarray(hidden @ network["output"])


def _batch(examples: list[Example], mean: Floats, deviation: Floats) -> tuple[Any, ...]:
    """Return rows, what to add to scores to hide absent ones and wrong ones, and what each is worth."""
    import torch

    most = max(len(example.rows) for example in examples)
    rows, worth = torch.zeros(len(examples), most, len(mean)), torch.zeros(len(examples), most)
    absent, wrong = torch.full((2, len(examples), most), -1e9)
    for index, example in enumerate(examples):
        count = len(example.rows)
        rows[index, :count] = torch.tensor(np.clip((example.rows - mean) / deviation, -5, 5))
        absent[index, :count] = 0
        wrong[index, :count] = torch.tensor(np.where(example.right, 0.0, -1e9))
        worth[index, :count] = torch.tensor(0.6 * example.beat_f + 0.4 * example.downbeat_f)
    return rows, absent, wrong, worth


def _trained(batches: list[tuple[Any, ...]], size: int) -> Any:
    """Return a network with one hidden layer that has learned from batches of rows of `size` numbers."""
    import torch

    network = torch.nn.Sequential(
        torch.nn.Dropout(DROPOUT / 3),
        torch.nn.Linear(size, HIDDEN),
        torch.nn.ReLU(),
        torch.nn.Dropout(DROPOUT),
        torch.nn.Linear(HIDDEN, 1, bias=False),
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    for _ in range(EPOCHS):
        for index in torch.randperm(len(batches)).tolist():
            rows, absent, wrong, worth = batches[index]
            score = network(rows)[..., 0] + absent
            likelihood = torch.logsumexp(score + wrong, 1) - torch.logsumexp(score, 1)
            loss = -(likelihood + (torch.softmax(score, 1) * worth).sum(1)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return network


def fit_linear(examples: list[Example], network: dict[str, Any]) -> dict[str, Any]:
    """Return the coefficients of the network with a linear layer of all numbers beside it."""
    import torch

    last = np.concatenate([example.rows[:, -1] for example in examples])
    mean = np.append(network["mean"], round(float(last.mean()), 3))
    deviation = np.append(network["deviation"], round(float(last.std()), 3))
    usable = [example for example in examples if example.right.any()]
    most = max(len(example.rows) for example in usable)
    inputs, wrong = torch.zeros(len(usable), most, len(mean)), torch.full((len(usable), most), -1e9)
    scores = torch.full((len(usable), most), -1e9)
    for index, example in enumerate(usable):
        rows = np.clip((example.rows - mean) / deviation, -5, 5)
        score = _network_scores(example.rows[:, :-1], network)
        inputs[index, : len(rows)] = torch.tensor(rows)
        scores[index, : len(rows)] = torch.tensor(score - score.max())
        wrong[index, : len(rows)] = torch.tensor(np.where(example.right, 0.0, -1e9))
    weights = torch.zeros(len(mean), requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Any:
        optimizer.zero_grad()
        score = scores + inputs @ weights
        likelihood = torch.logsumexp(score + wrong, 1) - torch.logsumexp(score, 1)
        total = -likelihood.mean() + LINEAR_PENALTY * (weights**2).sum()
        total.backward()
        return total

    optimizer.step(loss)
    return network | {
        "mean": mean.tolist(),
        "deviation": deviation.tolist(),
        "hidden": np.pad(np.array(network["hidden"]), ((0, 0), (0, 1))).tolist(),
        "linear": np.round(weights.detach().numpy().astype(float), 4).tolist(),
    }


def fit_key(examples: list[tuple[list[Note], Truth]]) -> list[Any]:
    """Return the coefficients of the key, (modes, blocks, 12). Where a mode is unknown, both are right."""
    import torch

    inputs, wrong = [], []
    for notes, truth in examples:
        described = describe_key(notes)
        if described is None:
            continue
        inputs.append(np.stack([np.roll(described, -tonic, axis=1) for tonic in range(12)]))
        right = np.full((12, len(MODES)), -1e9)
        for mode, name in enumerate(MODES):
            if truth.mode in ("", name):
                right[(truth.key_sharps * 7 - 3 * mode) % 12, mode] = 0
        wrong.append(right.reshape(-1))
    rows, wrongs = torch.tensor(np.array(inputs)).float(), torch.tensor(np.array(wrong)).float()
    weights = torch.zeros(len(MODES), rows.shape[2], 12, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=150, line_search_fn="strong_wolfe")

    def loss() -> Any:
        optimizer.zero_grad()
        logits = torch.einsum("ntbd,mbd->ntm", rows, weights).reshape(len(rows), -1)
        likelihood = torch.logsumexp(logits + wrongs, 1) - torch.logsumexp(logits, 1)
        total = -likelihood.mean() + KEY_PENALTY * (weights**2).sum()
        total.backward()
        return total

    optimizer.step(loss)
    return np.round(weights.detach().numpy().astype(float), 3).tolist()


def draw_many(
    scores: dict[str, list[tuple[Score, str]]], name: str, count: int, *, unusual: bool = False
) -> list[tuple[list[Note], Truth]]:
    """Return a number of examples, which the name and the scores decide."""
    random, found = seeded(name, 1), []
    while len(found) < count:
        example = draw(scores, random, unusual=unusual)
        if example is not None:
            found.append(example)
    return found


def write(weights: dict[str, Any]) -> None:
    """Write the coefficients, a row of a matrix in each line."""
    about = "Coefficients of mt3_infer.symbolic.meter and key. bench/fit_grid.py makes them."
    text = json.dumps({"about": about, "weights": weights})
    text = text.replace("], [", "],\n[").replace('"weights": {', '"weights": {\n').replace(', "', ',\n"')
    TARGET.write_text(text + "\n")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--count", default=EXAMPLES, show_default=True, help="Examples to fit.")
def main(folder: Path, count: int) -> None:
    """Fit the coefficients and write them into the package."""
    folder.mkdir(parents=True, exist_ok=True)
    read_corpus(folder, seed=1)
    scores = load_scores(folder)
    fitted, validation = draw_many(scores, "fit", count), draw_many(scores, "validation", VALIDATION)
    others = draw_many(scores, "bars", USUAL_AGAIN) + draw_many(scores, "unusual", UNUSUAL, unusual=True)
    key = fit_key(fitted)
    parts = (fitted, validation, others)
    examples = [[one for each in part if (one := measured(*each)) is not None] for part in parts]
    network = fit_meter(examples[0], examples[1])
    write(fit_linear(examples[2], network) | {"key": key})


if __name__ == "__main__":
    main()
