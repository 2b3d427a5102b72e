"""Handing a night's listing to a task costs nothing, however long it is."""

from typing import TypeVar, cast

from prefect.utilities.annotations import quote

_Value = TypeVar("_Value")


def unsearched(value: _Value) -> _Value:
    """A task's argument that Prefect hands over without looking into it.

    In any other, Prefect searches each object within for results of other tasks: for 20,000 images that takes most of a
    second, at every call.
    """
    return cast("_Value", quote(value))
