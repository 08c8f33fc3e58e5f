"""What all nodes share: checked parameters, a life cycle with clear faults, diagnostics.

A node lists its `Setting`s and fills in `configure`, `activate`, `deactivate`, `cleanup` and
`diagnose`; a `SafeDojoError` raised while configuring or activating becomes a log line, an entry
on /diagnostics and a FAILURE of the transition.
"""

import difflib
import gc
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterUninitializedException,
)
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_profile_sensor_data,
)
from rclpy.time import Time

from safedojo_ros.core.errors import ConfigError, SafeDojoError
from safedojo_ros.core.units import SECOND

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR

IMAGES = qos_profile_sensor_data
"""Best effort, the newest few: a late image is worth nothing."""

NEWEST = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST, depth=1
)
"""Reliable, the newest only: states and targets that replace each other."""

BEAT = QoSProfile(
    reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST, depth=1
)
"""Best effort, the newest only: heartbeats, of which a late one must not count."""

IN_ORDER = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST, depth=10
)
"""Reliable, none skipped: chunks and events."""

LATCHED = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
)
"""The newest message also reaches whoever comes later."""

RECORD = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
    history=HistoryPolicy.KEEP_LAST,
    depth=100,
)
"""Reliable, none skipped, not even those from before the two ends had found each other."""

SAY_AGAIN = 5.0
"""Seconds after which a lasting fault is logged again."""

SIMULATED_TIME = "use_sim_time"
RCLPY_PARAMETERS = (SIMULATED_TIME, "start_type_description_service")
"""Parameters that rclpy itself declares."""


@dataclass(frozen=True)
class Setting:
    """A parameter: its default gives the type; low and high bound numbers; choices bound words."""

    name: str
    default: Any
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    def descriptor(self) -> ParameterDescriptor:
        """The description and range as ROS tools show them."""
        text = self.description
        if self.choices:
            text += f" One of: {', '.join(self.choices)}."
        descriptor = ParameterDescriptor(description=text)
        low, high = self.low, self.high
        if low is None and high is None:
            return descriptor
        if isinstance(self.default, int):
            bounds = IntegerRange()
            bounds.from_value = int(low) if low is not None else -(2**62)
            bounds.to_value = int(high) if high is not None else 2**62
            descriptor.integer_range = [bounds]
        else:
            span = FloatingPointRange()
            span.from_value = float(low) if low is not None else -1.0e300
            span.to_value = float(high) if high is not None else 1.0e300
            descriptor.floating_point_range = [span]
        return descriptor

    def fault(self, value: Any) -> str:
        """Why `value` is not allowed, or ""; for what a descriptor cannot say."""
        values = value if isinstance(value, (list, tuple)) else [value]
        for item in values:
            if isinstance(item, float) and item != item:
                return f"parameter '{self.name}' is NaN"
            if self.choices and item not in self.choices:
                return (
                    f"parameter '{self.name}' is '{item}', expected one of "
                    f"{', '.join(self.choices)}"
                )
        return ""


AUTOSTART = Setting(
    "autostart", True, "Configure and activate by itself; false waits for a lifecycle manager."
)


@contextmanager
def without_collection() -> Iterator[None]:
    """Python's collector of cyclic garbage rests, if it is not at rest already."""
    at_work = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if at_work:
            gc.enable()


class DojoNode(LifecycleNode):
    """A lifecycle node whose faults are sentences."""

    def __init__(self, name: str, settings: Sequence[Setting], **options: Any) -> None:
        super().__init__(name, **options)
        self._settings = {s.name: s for s in (AUTOSTART, *settings)}
        self._parameter_faults = self._declare()
        self._busy = False
        self._stopping = False
        self._said, self._said_at = "", 0.0
        self._heard_at = 0
        self.simulated = bool(self.get_parameter(SIMULATED_TIME).value)
        """Whether time is the world's, on /clock."""
        self.failure = ""
        self.active = False
        self.add_on_set_parameters_callback(self._on_parameters)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", IN_ORDER)
        self.create_timer(1.0, self.report, clock=Clock(clock_type=ClockType.STEADY_TIME))

    # ---------------------------------------------------------------- for the nodes to fill in

    def configure(self) -> None:
        """Read and check everything, make publishers; raises `SafeDojoError`."""

    def activate(self) -> None:
        """Begin to work; raises `SafeDojoError`."""

    def deactivate(self) -> None:
        """Stop working; must not fail."""

    def cleanup(self) -> None:
        """Give back what `configure` took; must not fail, also after half a `configure`."""

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        """Level, sentence and values for /diagnostics while active."""
        return OK, "working", {}

    # ---------------------------------------------------------------- parameters

    def setting(self, name: str) -> Any:
        """The value of a declared parameter; lists as tuples."""
        value = self.get_parameter(name).value
        return tuple(value) if isinstance(value, (list, tuple)) or hasattr(value, "typecode") \
            else value  # fmt: skip

    def corner(self, name: str) -> tuple[float, float, float]:
        """A parameter of x, y and z in metres; raises `ConfigError`."""
        corner = self.setting(name)
        if len(corner) != 3:
            raise ConfigError(f"'{name}' has {len(corner)} numbers, expected x, y and z in metres")
        return corner

    def _declare(self) -> list[str]:
        faults = []
        for name, setting in self._settings.items():
            descriptor = setting.descriptor()
            try:
                self.declare_parameter(name, setting.default, descriptor)
            except (
                InvalidParameterTypeException,
                InvalidParameterValueException,
                ParameterUninitializedException,
            ) as error:
                faults.append(f"parameter '{name}': {error}")
                self.declare_parameter(name, setting.default, descriptor, ignore_override=True)
        given: dict[str, Any] = getattr(self, "_parameter_overrides", {}) or {}
        for name in given:
            if name not in self._settings and name not in RCLPY_PARAMETERS:
                if name.startswith("qos_overrides."):
                    continue
                near = difflib.get_close_matches(name, self._settings, n=1)
                hint = f"did you mean '{near[0]}'?" if near else "see 'ros2 param describe'"
                faults.append(f"unknown parameter '{name}'; {hint}")
        return faults

    def _check_parameters(self) -> None:
        faults = list(self._parameter_faults)
        for name, setting in self._settings.items():
            faults.append(setting.fault(self.get_parameter(name).value))
        faults = [f for f in faults if f]
        if faults:
            raise ConfigError("; ".join(faults))

    def _on_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            setting = self._settings.get(parameter.name)
            if parameter.name == SIMULATED_TIME and bool(parameter.value) != self.simulated:
                return SetParametersResult(
                    successful=False, reason=f"'{SIMULATED_TIME}' is read when the node starts"
                )
            if setting is None:
                continue
            if self._busy or self.active:
                return SetParametersResult(
                    successful=False,
                    reason=f"'{parameter.name}' is read when the node is configured; "
                    "deactivate and clean up first",
                )
            fault = setting.fault(parameter.value)
            if fault:
                return SetParametersResult(successful=False, reason=fault)
            self._parameter_faults = [
                f for f in self._parameter_faults if f"'{parameter.name}'" not in f
            ]
        return SetParametersResult(successful=True)

    # ---------------------------------------------------------------- life cycle

    def start(self) -> bool:
        """Configure and activate if `autostart` says so; False when that failed."""
        if not self.setting("autostart"):
            return True
        if self.trigger_configure() != TransitionCallbackReturn.SUCCESS:
            return False
        return self.trigger_activate() == TransitionCallbackReturn.SUCCESS

    def shut_down(self) -> None:
        """Leave the life cycle from whatever state, as far as it goes; never raises."""
        self._stopping = True
        for step in (self.deactivate, self.cleanup) if self._busy else ():
            try:
                step()
            except Exception as error:  # the process ends anyway; the next step must still run
                sys.stderr.write(f"{self.get_name()}: {error}\n")
        self._busy = self.active = False

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Check the parameters, then `configure`."""
        self._busy = True
        try:
            self._check_parameters()
            with without_collection():  # a fifth of the time that importing torch takes
                self.configure()
        except Exception as error:  # an unexpected one is a fault of this node, not of its manager
            self.cleanup()
            self._busy = False
            return self._failed("configure", error)
        self.failure = ""
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """`activate`; publishers open first."""
        result = super().on_activate(state)
        if result != TransitionCallbackReturn.SUCCESS:
            return result
        try:
            self.activate()
        except Exception as error:
            self.deactivate()
            return self._failed("activate", error)
        self.active = True
        self.get_logger().info("active")
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """`deactivate`; publishers close last."""
        self.active = False
        self.deactivate()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """`cleanup`."""
        self.cleanup()
        self._busy = False
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """From any state to the end."""
        self.active = False
        self.deactivate()
        self.cleanup()
        self._busy = False
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After an unexpected exception: clean up and become unconfigured."""
        self.active = False
        self.deactivate()
        self.cleanup()
        self._busy = False
        return TransitionCallbackReturn.SUCCESS

    def _failed(self, what: str, error: Exception) -> TransitionCallbackReturn:
        known = isinstance(error, SafeDojoError)
        self.failure = f"{what} failed: {error if known else repr(error)}"
        self.get_logger().error(self.failure)
        self.report()
        return TransitionCallbackReturn.FAILURE

    # ---------------------------------------------------------------- diagnostics

    def heard_at(self, stamp: int) -> None:
        """A message of the world's time `stamp` (ns) has come: /clock may have been overtaken."""
        self._heard_at = max(stamp, self._heard_at)

    def now(self) -> int:
        """The node's clock, ns."""
        clock = int(self.get_clock().now().nanoseconds)
        if self.simulated and 0 < self._heard_at - clock < SECOND:
            return self._heard_at
        return clock

    def say(self, fault: str) -> None:
        """Log a fault when it is new (numbers aside), and again every 5 s while it lasts."""
        kind = "".join(c for c in fault if not c.isdigit())
        now = time.monotonic()
        if kind != self._said or now - self._said_at > SAY_AGAIN:
            self._said, self._said_at = kind, now
            if fault:
                self.get_logger().warning(fault)

    def report(self) -> None:
        """Publish one status on /diagnostics; also called once a second."""
        values: dict[str, Any] = {}
        if self.failure:
            level, message = ERROR, self.failure
        elif not self.active:
            level, message = WARN, "not active"
        else:
            level, message, values = self.diagnose()
        status = DiagnosticStatus(level=level, message=message)
        status.name = self.get_fully_qualified_name().strip("/")
        status.hardware_id = "safedojo"
        status.values = [KeyValue(key=k, value=str(v)) for k, v in values.items()]
        array = DiagnosticArray(status=[status])
        array.header.stamp = Time(nanoseconds=self.now()).to_msg()
        if not self._stopping:
            self._diagnostics.publish(array)
