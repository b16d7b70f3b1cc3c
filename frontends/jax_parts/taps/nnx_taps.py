"""Calls of flax NNX modules, tapped while a program is traced."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping

from flax import nnx

from ttrace.frontends.jax_parts.taps.class_calls import ClassCalls
from ttrace.frontends.jax_parts.taps.module_calls import tap_state
from ttrace.frontends.jax_parts.taps.patching import (
    Missed,
    exclusively,
    tapped_or_as_it_is,
)
from ttrace.frontends.jax_parts.taps.stated import Stated
from ttrace.ir.tensor_id import ROOT_MODULE

_MARK = "_ttrace_path"
"""Static attribute that says where a module is while its model is being called.

NNX and JAX copy modules wherever they are transformed: into a scan, out of a split. The
mark goes with the copy, and keeps a function that was traced for one module from being
taken for another. No module has it outside of a call.
"""

_NO_STATE = (nnx.Param, nnx.RngState, nnx.Intermediate)
"""Parameters have kinds of their own; what is sown is tapped where it is made."""


@contextlib.contextmanager
def nnx_taps(stated: Stated | None = None) -> Iterator[list[Missed]]:
    """Taps what NNX modules are given and return, under their paths in the model.

    The model is the module that is called in no other one's call; a module's path is
    that of its attributes and positions (``blocks.0.attn``), the first one where it is
    shared. Methods other than ``__call__`` are tapped under their own names where they
    are called from another module (``embed/output/attend.0``). What is in an
    ``nnx.scan`` is tapped in every iteration, under the path of the stacked layers.
    What a call changes in variables of its module (``nnx.BatchStat``) is tapped as an
    output of the module.

    Args:
        stated: Is told in which dtypes the modules compute, and where their code is.

    Yields:
        A list that fills with what could not be tapped.

    Raises:
        UsageError: The taps are on already.
    """
    calls = _NnxCalls(nnx.Module, stated or Stated())
    with exclusively("the taps on NNX modules"), calls.switched_on():
        yield calls.missed


class _NnxCalls(ClassCalls):
    @contextlib.contextmanager
    def with_paths(self, model: nnx.Module) -> Iterator[None]:
        marked = _modules(model)
        try:
            for path, module in marked.items():
                self.add_class_of(module)
                vars(module)[_MARK] = path
            yield
        finally:
            _unmark(marked.values())
            _unmark(_modules(model).values())  # with those that came in meanwhile

    @contextlib.contextmanager
    def with_state(self, module: nnx.Module, path: str) -> Iterator[None]:
        variables = _state_variables(module)
        before = {name: each.get_raw_value() for name, each in variables.items()}

        def tap_changes(variables: Mapping[str, nnx.Variable]) -> None:
            for name, variable in variables.items():
                value = variable.get_raw_value()
                if value is not before[name]:
                    group = nnx.variable_name_from_type(
                        type(variable), allow_register=True
                    )
                    variable.set_raw_value(tap_state(path, group, name, value))

        yield
        tapped_or_as_it_is(
            variables, tap_changes, what=path or ROOT_MODULE, missed=self.missed
        )

    def path_of(self, module: nnx.Module) -> str | None:
        return vars(module).get(_MARK)


def _modules(model: nnx.Module) -> dict[str, nnx.Module]:
    """The modules of a model by path; each once, the model itself under ``""``."""
    return {
        ".".join(map(str, path)): node
        for path, node in nnx.iter_graph(model, graph=True)
        if isinstance(node, nnx.Module)
    }


def _state_variables(module: nnx.Module) -> dict[str, nnx.Variable]:
    """The module's own variables, by name, but those that are no state of a model."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, nnx.Variable) and not isinstance(value, _NO_STATE)
    }


def _unmark(modules: Iterable[nnx.Module]) -> None:
    for module in modules:
        if _MARK in vars(module):
            delattr(module, _MARK)  # NNX forgets its own notes on it, too
