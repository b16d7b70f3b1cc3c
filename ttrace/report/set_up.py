"""What a report says of the two runs themselves."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSetup:
    """What one run says of itself, as far as it explains differences.

    Attributes:
        path: Folder of the trace; empty where there is none.
        framework: Frontend that recorded it; empty where nothing was recorded.
        world_size: Number of processes; 0 where nothing was recorded.
        versions: Package versions.
        meshes: Axis sizes of each device mesh, by mesh name.
        settings: Precision flags, parallel sizes, dtypes.
        capture: Capture filters that were on.
        num_recorded_ranks: Number of processes that were recorded; None in reports
            that do not say.
        num_parameters: Parameters that it recorded, in their first state.
        sharded_parameters: By mesh axis, how many of them are sharded over it.
        num_idle_ranks: Of a program that runs on all devices, those that hold nothing
            of what was recorded.
        code: Where the code of modules is: ``models/gpt.py:42 Attention.forward`` by
            the path, with ``*`` for the numbers of layers that have the same.
    """

    path: str
    framework: str
    world_size: int
    versions: Mapping[str, str]
    meshes: Mapping[str, Mapping[str, int]]
    settings: Mapping[str, str | int | float | bool | None]
    capture: Mapping[str, str]
    num_recorded_ranks: int | None = None
    num_parameters: int = 0
    sharded_parameters: Mapping[str, int] = field(default_factory=dict)
    num_idle_ranks: int = 0
    code: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_working_ranks(self) -> int:
        """The ranks that the run was on."""
        return self.world_size - self.num_idle_ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class MapSetup:
    """The map that gave the candidate's tensors the reference's names and dims.

    Attributes:
        path: Its file.
        num_rules: Rules of it.
        num_unverified: Rules that are marked as unverified.
        num_left_out_reference: Inputs and outputs of the reference that it ignores.
        num_left_out_candidate: The same of the candidate.
    """

    path: str
    num_rules: int
    num_unverified: int
    num_left_out_reference: int = 0
    num_left_out_candidate: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Both runs and what they do not have in common.

    Attributes:
        differences: Settings and versions that differ, with both values.
        binding: Names of those among them that change the mathematics.
        tensors: Ids of initial parameters and inputs that differ, first one first.
        map: The map that matched the tensors; None if there was none.
    """

    reference: RunSetup
    candidate: RunSetup
    differences: Mapping[str, tuple[object, object]]
    binding: tuple[str, ...]
    tensors: tuple[str, ...]
    map: MapSetup | None = None
