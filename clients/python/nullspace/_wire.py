"""Values on the wire and in Python: times, durations, numbers, metadata, texts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Optional, Union

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from nullspace._limits import MAX_EXACT_INTEGER, MAX_METADATA_DEPTH
from nullspace.errors import invalid_request

Seconds = Union[int, float]

# A Duration of the wire holds +-10,000 years.
_MAX_SECONDS = 315_576_000_000
_NANOS = 1_000_000_000


class Checks:
    """Gathers what cannot be put on the wire, so that one error names all of it.

    Ranges that the wire can carry are the server's to check.
    """

    def __init__(self) -> None:
        self._violations: list[tuple[str, str]] = []

    def fail(self, field: str, description: str) -> None:
        """Notes that ``field`` is bad."""
        self._violations.append((field, description))

    def finish(self) -> None:
        """Raises ``invalid_request`` if anything was bad."""
        if self._violations:
            raise invalid_request(*self._violations)

    def integer(self, field: str, value: int, bits: int = 32) -> int:
        """A whole number that fits the wire, else 0 and a note."""
        if isinstance(value, bool) or not isinstance(value, int):
            self.fail(field, f"{value!r} is not a whole number")
            return 0
        if not -(1 << bits - 1) <= value < 1 << bits - 1:
            self.fail(field, f"{value} is out of range")
            return 0
        return value

    def duration(self, field: str, seconds: Seconds) -> Duration:
        """Seconds on the wire, whole nanoseconds."""
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
            self.fail(field, f"{seconds!r} is not a number of seconds")
        elif not math.isfinite(seconds) or abs(seconds) > _MAX_SECONDS:
            self.fail(field, f"{seconds} s are out of range; None means no limit")
        else:
            total = seconds * _NANOS if isinstance(seconds, int) else round(seconds * _NANOS)
            whole, nanos = divmod(abs(total), _NANOS)
            sign = -1 if total < 0 else 1
            return Duration(seconds=sign * whole, nanos=sign * nanos)
        return Duration()

    def text(self, field: str, value: Optional[str]) -> str:
        """A text that UTF-8 can hold; None is empty."""
        if value is None:
            return ""
        if not isinstance(value, str):
            self.fail(field, f"{value!r} is not a text")
            return ""
        try:
            value.encode()
        except UnicodeEncodeError:
            self.fail(field, "holds surrogates, which UTF-8 cannot")
            return ""
        return value

    def texts(self, field: str, values: Optional[Mapping[str, str]]) -> dict[str, str]:
        """Names and values, such as an environment."""
        if not isinstance(values or {}, Mapping):
            self.fail(field, f"{values!r} is not a mapping")
            return {}
        return {
            self.text(field, name): self.text(f"{field}.{name}", value)
            for name, value in (values or {}).items()
        }

    def metadata(self, field: str, metadata: Optional[Mapping[str, Any]]) -> Struct:
        """A JSON object. Numbers that a double would bend are refused."""
        if metadata is not None and not isinstance(metadata, Mapping):
            self.fail(field, f"{metadata!r} is not a mapping")
            return Struct()
        return self._struct(field, metadata or {}, 1)

    def _struct(self, field: str, members: Mapping[Any, Any], depth: int) -> Struct:
        struct = Struct()
        for name, value in members.items():
            if isinstance(name, str):
                struct.fields[self.text(field, name)].CopyFrom(self._value(f"{field}.{name}", value, depth))
            else:
                self.fail(field, f"name {name!r} is not a text")
        return struct

    def _value(self, field: str, value: Any, depth: int) -> Value:
        if depth > MAX_METADATA_DEPTH:
            self.fail(field, f"is deeper than {MAX_METADATA_DEPTH} levels")
        elif value is None:
            return Value(null_value=0)  # type: ignore[arg-type]
        elif isinstance(value, bool):
            return Value(bool_value=value)
        elif isinstance(value, int):
            if abs(value) <= MAX_EXACT_INTEGER:
                return Value(number_value=float(value))
            self.fail(field, f"{value} cannot be held exactly; send it as a string")
        elif isinstance(value, float):
            if math.isfinite(value):
                return Value(number_value=value)
            self.fail(field, f"{value} is not in JSON")
        elif isinstance(value, str):
            return Value(string_value=self.text(field, value))
        elif isinstance(value, Mapping):
            return Value(struct_value=self._struct(field, value, depth + 1))
        elif isinstance(value, (list, tuple)):
            items = [self._value(f"{field}[{index}]", item, depth + 1) for index, item in enumerate(value)]
            return Value(list_value=ListValue(values=items))
        else:
            self.fail(field, f"{type(value).__name__} is not in JSON")
        return Value()


def metadata_of(struct: Struct) -> dict[str, Any]:
    """A JSON object in Python. Whole numbers are ints."""
    return {name: _plain(value) for name, value in struct.fields.items()}


def _plain(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() else number
    if kind == "struct_value":
        return metadata_of(value.struct_value)
    if kind == "list_value":
        return [_plain(item) for item in value.list_value.values]
    return None if kind in (None, "null_value") else getattr(value, kind)


def time_of(message: Message, field: str) -> Optional[datetime]:
    """A point in time, with its zone; None when it is absent."""
    if not message.HasField(field):
        return None
    stamp: Timestamp = getattr(message, field)
    return stamp.ToDatetime(tzinfo=timezone.utc)


def seconds_of(duration: Duration) -> float:
    """A duration in seconds."""
    return duration.seconds + duration.nanos / _NANOS
