"""The table of models, as plain data. Nothing heavy is imported until a model is loaded.

A new network is a new row here, a folder beside this file with its `load`, and an entry in
`checkpoints/catalog.toml` for its weights, license and aliases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError

from mt3_infer.errors import InvalidOptionError, MissingDependencyError
from mt3_infer.options import Options, check_options
from mt3_infer.symbolic.instruments import PROGRAM_NAMES, Instrument, Selection, select

if TYPE_CHECKING:
    from mt3_infer.network import Network


def _known_instrument(name: str) -> str:
    try:
        select([name])
    except ValueError as error:
        raise PydanticCustomError("unknown_instrument", "{reason}", {"reason": str(error)}) from error
    return name


def _one_instrument(name: str | None) -> str | None:
    if name is not None and not select([_known_instrument(name)]).programs:
        raise PydanticCustomError(
            "no_program",
            "Drums are a kit, not one instrument: leave it out, or restrict a model to instruments=drums",
        )
    return name


class ModelOptions(Options):
    """The options that every model takes for one transcription."""

    single_instrument: Annotated[str | None, AfterValidator(_one_instrument)] = Field(
        default=None,
        description="If one instrument plays, its name, such as violin: every note is given to it.",
        examples=[name.lower() for name in PROGRAM_NAMES],
    )

    @property
    def single_program(self) -> int | None:
        """The program of the single instrument, the most likely one of a family; None without one."""
        return None if self.single_instrument is None else select([self.single_instrument]).programs[0]


class BasicPitchOptions(ModelOptions):
    """Note creation after Bittner et al. (ICASSP 2022).

    The published onset threshold is 0.5; docs/decisions/0009-basic-pitch-threshold.md has the reason for ours. The
    minimum of the thresholds is above 0, at which every frame would be active and no note would end.
    """

    onset_threshold: float = Field(
        0.6,
        ge=0.05,
        le=1.0,
        description="Minimum confidence for the start of a note; lower finds more notes (0.05-1; published: 0.5).",
    )
    frame_threshold: float = Field(
        0.3,
        ge=0.05,
        le=1.0,
        description="Minimum confidence for a note to continue; lower makes notes longer (0.05-1).",
    )
    minimum_note_length: float = Field(
        0.1277, ge=0.0, le=10.0, description="Minimum length of a note in seconds; shorter notes are dropped."
    )


InstrumentName = Annotated[
    str,
    AfterValidator(_known_instrument),
    # The families are in the schema itself, for pages that build a form from it.
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "enum": [*Instrument]},
                {
                    "type": "string",
                    "description": "A General MIDI instrument, such as violin.",
                    "examples": ["violin"],
                },
            ]
        }
    ),
]


class MT3Options(ModelOptions):
    """Options that restrict the tokens that the network may choose."""

    instruments: tuple[InstrumentName, ...] = Field(
        default=(),
        description="Restrict the transcription to these instruments or families; none selected means all.",
    )

    @field_validator("instruments", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        """Accept the names as one text with commas too, as they come on a command line."""
        return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value

    @field_validator("instruments")
    @classmethod
    def _not_both(cls, value: tuple[str, ...], others: ValidationInfo) -> tuple[str, ...]:
        if value and others.data.get("single_instrument") is not None:
            raise PydanticCustomError("conflict", "Pass either instruments or single_instrument, not both")
        return value

    @property
    def selection(self) -> Selection | None:
        """The instruments that may play; None for all."""
        return select(self.instruments) if self.instruments else None


class YourMT3Options(ModelOptions):
    """The options of every model."""


class TranskunOptions(ModelOptions):
    """Where notes end under the sustain pedal."""

    extend_to_pedal: bool = Field(
        False,
        description="Let notes whose keys are released under the sustain pedal last until the pedal is released.",
    )


Purpose = Literal["piano", "one_instrument", "several_instruments"]


@dataclass(frozen=True)
class ModelSpec:
    """One row of the table.

    Attributes:
        purpose: what it is made for; choices are offered by that.
        sample_rate: of the network's input, in Hz.
        options: the options it takes.
        network: "module:function"; the function takes the directory of the verified checkpoint
            (file names as in the catalog) or a weight file, and `device_options`, and returns a `Network`.
        weight_files: which files in a custom directory are its weights, as patterns.
        device_options: what `load` takes: always "device", perhaps "dtype" and "batch_size", and for files that do
            not state how they were trained, the options of `load_model` that do.
        check: "module:function"; the function takes the same `device_options`, and raises InvalidOptionError where
            the network cannot run so on this machine.
        has_velocities: True if the network's own velocities are better than those estimated from the recording.
        confidence: family of the coefficients that confidence is estimated with; see `mt3_infer.evidence`.
    """

    name: str
    title: str
    description: str
    purpose: Purpose
    sample_rate: int
    options: type[ModelOptions]
    network: str
    weight_files: tuple[str, ...]
    device_options: tuple[str, ...] = ("device",)
    check: str = "mt3_infer.inference.devices:check_device_options"
    has_velocities: bool = False
    confidence: str = "mt3"

    def check_options(self, options: Mapping[str, Any]) -> ModelOptions:
        """Check the options of one transcription against those that this model takes.

        Raises:
            InvalidOptionError: an unknown name or a value out of range.
        """
        return check_options(self.options, options, taker=self.name)

    def load(self, checkpoint: Path, **device_options: Any) -> Network[Any]:
        """Build the network from a checkpoint.

        Args:
            device_options: by name; None is ignored.
        Raises:
            InvalidOptionError: an option that this network does not have.
            MissingDependencyError: a required package is not installed.
        """
        given = self.check_device_options(device_options)
        network: Network[Any] = self._find(self.network)(checkpoint, **given)
        return network

    def check_device_options(self, device_options: Mapping[str, Any]) -> dict[str, Any]:
        """Return what `load` passes on, without None. It needs no weights.

        Raises:
            InvalidOptionError, MissingDependencyError: as `load` does.
        """
        given = {name: value for name, value in device_options.items() if value is not None}
        for name in given:
            if name not in self.device_options:
                raise InvalidOptionError(f"{self.name} takes no option {name!r} when it is loaded: leave it out.")
        self._find(self.check)(**given)
        return given

    def _find(self, name: str) -> Callable[..., Any]:
        """Return the function "module:function".

        Raises:
            MissingDependencyError: a package that its module imports is not installed.
        """
        module, function = name.split(":")
        try:
            found: Callable[..., Any] = getattr(import_module(module), function)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == __name__.partition(".")[0]:
                raise  # a module of our own: no package would bring it
            raise MissingDependencyError(
                f"{self.name} needs the package {error.name}: pip install 'mt3-infer-service[infer]'"
            ) from error
        return found


def _yourmt3(name: str, title: str, description: str, function: str) -> ModelSpec:
    return ModelSpec(
        name=name,
        title=title,
        description=description,
        purpose="several_instruments",
        sample_rate=16000,
        options=YourMT3Options,
        network=f"mt3_infer.models.yourmt3.network:{function}",
        weight_files=("*.safetensors", "*.ckpt", "*.pth", "*.pt"),
        device_options=("device", "dtype", "batch_size"),
    )


MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            name="basic_pitch",
            title="Basic Pitch",
            description="Any single instrument or voice; tiny and fast on a CPU.",
            purpose="one_instrument",
            sample_rate=22050,
            options=BasicPitchOptions,
            network="mt3_infer.models.basic_pitch.network:load",
            weight_files=("nmp.onnx",),
            check="mt3_infer.models.basic_pitch.network:check_device",
            confidence="basic_pitch",
        ),
        ModelSpec(
            name="mt3_pytorch",
            title="MT3",
            description="Several instruments at once and drums, each note with its instrument.",
            purpose="several_instruments",
            sample_rate=16000,
            options=MT3Options,
            network="mt3_infer.models.mt3.network:load",
            weight_files=("*.safetensors", "*.pth", "*.pt", "*.ckpt", "checkpoint", "*.tar"),
            device_options=("device", "dtype", "batch_size", "front_end", "min_max", "positions"),
        ),
        ModelSpec(
            name="mr_mt3",
            title="MR-MT3",
            description="MT3 with a memory: an instrument stays the same from segment to segment.",
            purpose="several_instruments",
            sample_rate=16000,
            options=MT3Options,
            network="mt3_infer.models.mr_mt3.network:load",
            weight_files=("*.safetensors", "*.ckpt", "*.pth", "*.pt"),
            device_options=(
                *("device", "dtype", "batch_size", "front_end", "min_max", "positions"),
                *("memory_rows", "memory_start"),
            ),
        ),
        _yourmt3(
            "yourmt3",
            "YourMT3+",
            "Instruments, drums and singing in 13 channels, with a mixture of experts (YPTF.MoE+Multi).",
            "load_moe",
        ),
        _yourmt3(
            "yourmt3_moe_ps",
            "YourMT3+ (pitch shift)",
            "The same network, trained on recordings shifted in pitch too.",
            "load_moe",
        ),
        _yourmt3(
            "yourmt3_multi_ps",
            "YourMT3+ (no experts)",
            "13 channels, a smaller encoder, trained with pitch shift (YPTF+Multi).",
            "load_multi",
        ),
        _yourmt3(
            "yourmt3_single",
            "YourMT3+ (one channel)",
            "A smaller encoder, all instruments in one sequence (YPTF+Single).",
            "load_single",
        ),
        _yourmt3(
            "yourmt3_plus",
            "YMT3+",
            "MT3's network, trained as YourMT3+ was; all instruments in one sequence.",
            "load_plus",
        ),
        ModelSpec(
            name="transkun",
            title="Transkun",
            description="Solo piano, with velocities and pedals; the most accurate one for it.",
            purpose="piano",
            sample_rate=44100,
            options=TranskunOptions,
            network="mt3_infer.models.transkun.network:load",
            weight_files=("*.safetensors", "*.pt", "*.pth", "*.ckpt"),
            has_velocities=True,
        ),
    )
}
