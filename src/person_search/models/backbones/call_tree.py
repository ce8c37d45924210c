"""What a network calls, and with what, when it runs: shows whether parts of it form a chain."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(eq=False)
class Call:
    """One call of a module while a network ran.

    Attributes:
        name: the module's dotted name in the network.
        given: a copy of what went in, None unless that was one tensor alone.
        output: a copy of what came out, None unless that was one tensor.
        inner: the calls that this one made, in order.
    """

    name: str
    module: nn.Module
    given: Tensor | None
    output: Tensor | None = None
    inner: list[Call] = field(default_factory=list)


def record_calls(network: nn.Module, run: Callable[[Tensor], Any], x: Tensor) -> Call:
    """The calls inside of ``run(x)``, as one call."""
    root = Call("", network, x)
    open_calls = [root]

    def before(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = [value for value in (*args, *kwargs.values()) if value is not None]
        call = Call(name, module, _copy(given[0]) if len(given) == 1 else None)
        open_calls[-1].inner.append(call)
        open_calls.append(call)

    def after(output: Any) -> None:
        open_calls.pop().output = _copy(output)

    handles = []
    for name, module in network.named_modules():
        if module is network:
            continue
        handles.append(
            module.register_forward_pre_hook(
                lambda part, args, kwargs, name=name: before(name, part, args, kwargs), with_kwargs=True
            )
        )
        handles.append(module.register_forward_hook(lambda part, args, output: after(output)))
    try:
        root.output = _copy(run(x))
    finally:
        for handle in handles:
            handle.remove()
    return root


def chain_to(call: Call, ends: Collection[str]) -> list[Call]:
    """The calls inside of ``call`` that lead to the modules ``ends``, each reading what the one before it gave.

    No call is taken apart that holds none of ``ends``. Raises ValueError, with the reason, where there is no chain.
    """
    chain: list[Call] = []
    _follow(call, set(ends), chain)
    names = [step.name for step in chain]
    for end in ends:
        if end not in names:
            raise ValueError(f"its stage '{end}' is no part that it runs by itself")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"its part '{name}' runs more than once")
    return chain


def _follow(call: Call, ends: set[str], chain: list[Call]) -> None:
    features, last = call.given, "the picture" if call.name == "" else f"'{call.name}'"
    for step in call.inner:
        if ends <= {done.name for done in chain}:
            return
        if not _same(step.given, features):
            raise ValueError(f"its part '{step.name}' does not read just what {last} gives")
        if step.name not in ends and any(end.startswith(f"{step.name}.") for end in ends):
            _follow(step, ends, chain)
        else:
            chain.append(step)
        features, last = step.output, f"'{step.name}'"


def blocks_of(call: Call) -> list[Call]:
    """The blocks that a stage runs one after the other; the stage itself if it is no such row."""
    row = isinstance(call.module, nn.Sequential) or any(
        isinstance(part, nn.Sequential | nn.ModuleList) for part in call.module.children()
    )
    features = call.given
    for step in call.inner:
        row = row and _same(step.given, features)
        features = step.output
    if not row or not call.inner or not _same(features, call.output):
        return [call]
    return [block for step in call.inner for block in blocks_of(step)]


def _copy(value: Any) -> Tensor | None:
    return value.clone() if isinstance(value, Tensor) else None


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)
