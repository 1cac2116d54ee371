"""Find the front end that a checkpoint was trained with: the one that finds the notes.

    python tools/compare_front_ends.py song.flac song.mid --checkpoint exp.ckpt
    python tools/compare_front_ends.py song.flac song.mid --model mt3_pytorch

Transcribes a recording whose notes are known with each front end, with and without scaling to 0 … 1, and prints
the onset F1 (50 ms, pitched notes, instruments ignored). Half a minute is enough. The right front end stands out,
beside it perhaps one that is all but the same ("tf" and "torch_current"); where
`mt3_infer/models/mt3/config.py` says otherwise, correct its table. Takes the packages of `make setup`.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import click
import numpy as np

from mt3_infer import CheckpointError, MT3Error, Note, load_model
from mt3_infer.models.mt3.config import FrontEnd


def onset_f1(known: Path, notes: list[Note]) -> float:
    """F1 of the pitched notes' onsets, within 50 ms."""
    import pretty_midi
    from mir_eval.transcription import precision_recall_f1_overlap
    from mir_eval.util import midi_to_hz

    played = [
        (note.start, note.end, note.pitch)
        for instrument in pretty_midi.PrettyMIDI(str(known)).instruments
        if not instrument.is_drum
        for note in instrument.notes
    ]
    found = [(note.onset, note.offset, note.pitch) for note in notes if not note.is_drum]
    if not played or not found:
        return 0.0
    (theirs, their_pitches), (ours, our_pitches) = (
        (np.array(rows)[:, :2], midi_to_hz(np.array(rows)[:, 2])) for rows in (played, found)
    )
    return float(precision_recall_f1_overlap(theirs, their_pitches, ours, our_pitches, offset_ratio=None)[2])


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("recording", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("midi", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--model", default="mr_mt3", show_default=True, help="mr_mt3 or mt3_pytorch.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Weights; the published ones without it.")
@click.option("--positions", type=click.Choice(["magenta", "mt3_pytorch"]), help="Default: as the table says.")
@click.option("--memory-rows", type=int, help="Of mr_mt3. Default: as the name of the file says.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or cuda:1.")
def main(
    recording: Path,
    midi: Path,
    model: str,
    checkpoint: Path | None,
    positions: str | None,
    memory_rows: int | None,
    device: str,
) -> None:
    """Print the onset F1 that a checkpoint reaches with each front end."""
    click.echo("front end      min-max  onset F1   notes")
    for front_end, min_max in product(FrontEnd, (True, False)):
        try:
            loaded = load_model(
                model,
                checkpoint_path=checkpoint,
                device=device,
                front_end=front_end,
                min_max=min_max,
                positions=positions,
                memory_rows=memory_rows,
            )
            result = loaded.transcribe(recording)
        except (MT3Error, CheckpointError) as error:
            raise click.ClickException(str(error)) from error
        f1 = onset_f1(midi, result.notes)
        click.echo(f"{front_end:14} {'yes' if min_max else 'no':7} {f1:9.3f} {len(result.notes):7}")


if __name__ == "__main__":
    main()
