"""What `gpu_check.py` uses of pydantic, for machines that do not have it: settings with defaults, nothing validated."""

from collections.abc import Callable
from typing import Any

ConfigDict = dict
_MISSING = object()


def Field(default: Any = _MISSING, **_limits: Any) -> Any:  # noqa: N802 - pydantic's name
    """The default itself."""
    return default


def field_validator(*_names: str, **_options: Any) -> Callable[[Any], Any]:
    """Leaves the method as it is; nobody calls it."""
    return lambda method: method


class BaseModel:
    """Settings as attributes: the class's defaults, or what is given by name.

    Raises:
        TypeError: for a name that is no setting, or if one without a default is not given.
    """

    def __init__(self, **given: Any) -> None:
        names = [name for kind in reversed(type(self).__mro__) for name in vars(kind).get("__annotations__", {})]
        if unknown := set(given) - set(names):
            raise TypeError(f"{type(self).__name__} has no setting {', '.join(sorted(unknown))}")
        for name in names:
            value = given.get(name, getattr(type(self), name, _MISSING))
            if value is _MISSING:
                raise TypeError(f"{type(self).__name__}: {name} is missing")
            setattr(self, name, value)
