"""A robot on the network: the Franka Control Interface over whatever moves behind it.

Arm on TCP 1337, gripper on TCP 1338, states by UDP, as `fci_protocol` lays them out. By default in
lockstep: while a client moves the arm each cycle waits, within bounds, for its command, so that a
machine without a real-time kernel loses none; the robot's time stands still meanwhile.
"""

import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.robot.fci.controller import Arm, FciController
from safedojo_ros.robot.fci.gripper import Gripper, GripperController
from safedojo_ros.robot.fci.protocol import (
    ARM_HEADER,
    ARM_PORT,
    ARM_VERSION,
    CONNECT_REQUEST,
    CONNECT_RESPONSE,
    CYCLE,
    GRIPPER_CONNECT_RESPONSE,
    GRIPPER_HEADER,
    GRIPPER_PORT,
    GRIPPER_STATUS,
    GRIPPER_VERSION,
    PAYLOADS,
    ROBOT_COMMAND,
    CollisionBehavior,
    Command,
    GripperCommand,
    GripperStatus,
    MoveRequest,
    MoveStatus,
    Status,
    answer,
    gripper_answer,
)
from safedojo_ros.robot.fci.urdf import fr3_urdf

GRIPPER_EVERY = 20
"""Cycles between two states of the gripper."""

LARGEST_DEBT = 0.02
"""Seconds of a stall that are caught up with."""

LARGEST_REQUEST = 4096
LARGEST_BACKLOG = 2**20
"""Bytes of answers that a client may leave unread before it is hung up on."""

INCOMPATIBLE = 1
"""Answer to a client of another version of the interface."""

SETTERS = (
    Command.SET_JOINT_IMPEDANCE,
    Command.SET_CARTESIAN_IMPEDANCE,
    Command.SET_GUIDING_MODE,
    Command.SET_LOAD,
)
"""Requests that are understood and change nothing here."""


class Robot(Arm, Gripper, Protocol):
    """Arm and gripper in one."""


class _Line:
    """One client's TCP connection, and the UDP socket that belongs to it.

    Raises `OSError` for a client that has gone again.
    """

    def __init__(self, tcp: socket.socket, address: str) -> None:
        self.tcp, self.buffer, self.unsent = tcp, b"", b""
        tcp.setblocking(False)
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.client = tcp.getpeername()[0]
        self.states = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.states.bind((address, 0))
        self.states.setblocking(False)
        self.port = 0

    def requests(self, header: struct.Struct) -> list[tuple[int, int, bytes]] | None:
        """Command, number and payload of all that have come whole; None: the client is gone."""
        if not self._sent():
            return None
        try:
            received = self.tcp.recv(65536)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not received:
            return None
        self.buffer += received
        found = []
        while len(self.buffer) >= header.size:
            command, number, size = header.unpack_from(self.buffer)
            if not header.size <= size <= LARGEST_REQUEST:
                return None
            if len(self.buffer) < size:
                break
            found.append((command, number, self.buffer[header.size : size]))
            self.buffer = self.buffer[size:]
        return found

    def reply(self, message: bytes) -> None:
        """Send, now or as soon as the client reads."""
        self.unsent += message
        self._sent()

    def _sent(self) -> bool:
        """Send what is left; False if the client is gone, or reads nothing any more."""
        try:
            while self.unsent:
                self.unsent = self.unsent[self.tcp.send(self.unsent) :]
        except BlockingIOError:
            return len(self.unsent) <= LARGEST_BACKLOG
        except OSError:
            return False
        return True

    def send_state(self, state: bytes) -> None:
        """One datagram, if the client has said where to."""
        if not self.port:
            return
        try:
            self.states.sendto(state, (self.client, self.port))
        except OSError:
            return

    def close(self) -> None:
        """Hang up."""
        self.tcp.close()
        self.states.close()


class FciEmulator:
    """Serves one client of the arm and one of the gripper from a thread of its own.

    address: of this machine; the ports are fixed, so every emulator needs its own (127.0.0.x).
    patience: s that a cycle waits for the client's command; 0: never, as the robot does.
    pace: s between two cycles; 0: as fast as they go. A slower one makes a slower robot, not a
    worse one: clients answer states, they keep no time. Raises `ConfigError` where the address
    cannot be had.
    """

    def __init__(
        self,
        robot: Robot,
        address: str = "127.0.0.1",
        patience: float = 0.05,
        pace: float = CYCLE,
    ) -> None:
        self.controller, self.gripper = FciController(robot), GripperController(robot)
        self.address, self.patience, self.pace = address, patience, pace
        self.cycles = self.lost = 0
        self._arm: _Line | None = None
        self._gripper: _Line | None = None
        self._jobs: list[Callable[[], None]] = []
        self._closing = threading.Event()
        self._listeners = [self._listen(port) for port in (ARM_PORT, GRIPPER_PORT)]
        self._thread = threading.Thread(target=self._serve, name="fci-emulator", daemon=True)

    def _listen(self, port: int) -> socket.socket:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self.address, port))
        except OSError as error:
            listener.close()
            raise ConfigError(
                f"cannot serve {self.address}:{port} ({error.strerror}); stop the emulator that "
                "has it, or choose another address of this machine, for instance 127.0.0.2"
            ) from error
        listener.listen(1)
        listener.setblocking(False)
        return listener

    # ---------------------------------------------------------------- from other threads

    def start(self) -> None:
        """Serve until `close`."""
        self._thread.start()

    def close(self) -> None:
        """Hang up and free the address."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        for line in (self._arm, self._gripper):
            if line:
                line.close()
        for listener in self._listeners:
            listener.close()

    def press_user_stop(self, pressed: bool = True) -> None:
        """The button in a person's hand."""
        self.controller.user_stop = pressed

    @property
    def moving(self) -> bool:
        """Whether a client moves the arm."""
        return not self.controller.may_change

    def between_cycles(self, job: Callable[[], None]) -> None:
        """Let the serving thread do `job` between two cycles; returns when it is done and the state
        after it is sent."""
        done = threading.Event()

        def run() -> None:
            try:
                job()
            finally:
                self._jobs.append(done.set)  # for after the cycle

        self._jobs.append(run)
        while not done.wait(0.5) and self._thread.is_alive():
            pass

    # ---------------------------------------------------------------- the serving thread

    def _serve(self) -> None:
        due = time.monotonic()
        while not self._closing.is_set():
            self._accept()
            self._attend_arm()
            self._attend_gripper()
            for _ in range(len(self._jobs)):
                self._jobs.pop(0)()
            self._cycle()
            if self.pace:
                due = max(due + self.pace, time.monotonic() - LARGEST_DEBT)
                time.sleep(max(0.0, due - time.monotonic()))

    def _accept(self) -> None:
        if self.cycles % GRIPPER_EVERY:
            return
        for which, listener in enumerate(self._listeners):
            try:
                connection, _ = listener.accept()
            except OSError:  # nobody, or one who has gone again
                continue
            if (self._gripper if which else self._arm) is not None:
                connection.close()  # one client at a time
                continue
            try:
                line = _Line(connection, self.address)
            except OSError:  # connected and reset
                connection.close()
                continue
            if which:
                self._gripper = line
            else:
                self._arm = line

    def _cycle(self) -> None:
        self.cycles += 1
        command = None
        if self._arm is not None and self._arm.port:
            command = self._command(self._arm)
        state = self.controller.cycle(command)
        if self._arm is not None:
            self._arm.send_state(state.tobytes())
        while self.controller.finished:  # after the state that shows it
            number, status = self.controller.finished.popleft()
            self._reply(Command.MOVE, number, status)
        self._answer_gripper(self.gripper.cycle())
        if self._gripper is not None and self.cycles % GRIPPER_EVERY == 0:
            self._gripper.send_state(self.gripper.state())

    def _command(self, line: _Line) -> np.void | None:
        """The client's answer to the newest state, or None."""
        expected = int(self.controller.robot_time)
        patient = self.patience if self.controller.awaits_command else 0.0
        until = time.monotonic() + patient
        while True:
            newest = None
            while True:
                try:
                    datagram = line.states.recv(2048)
                except OSError:
                    break
                if len(datagram) == ROBOT_COMMAND.itemsize:
                    newest = np.frombuffer(datagram, ROBOT_COMMAND)[0]
            if newest is not None and (newest["message_id"] == expected or not patient):
                return newest
            left = until - time.monotonic()
            if left <= 0.0:
                self.lost += bool(patient)
                return newest
            ready, _, _ = select.select([line.states, line.tcp], [], [], left)
            if line.tcp in ready:
                return None  # a request, or the end of the line, goes first

    # ---------------------------------------------------------------- requests

    def _attend_arm(self) -> None:
        line = self._arm
        if line is None:
            return
        requests = line.requests(ARM_HEADER)
        for command, number, payload in requests or []:
            if not self._attend(line, command, number, payload):
                requests = None
                break
        if requests is None:
            self.controller.client_left()
            line.close()
            self._arm = None

    def _attend(self, line: _Line, code: int, number: int, payload: bytes) -> bool:
        """Answer one request; False hangs up on a client that does not speak the protocol."""
        if code not in list(Command) or len(payload) != PAYLOADS[Command(code)]:
            return False
        command = Command(code)
        if command == Command.CONNECT:
            version, line.port = CONNECT_REQUEST.unpack(payload)
            status = Status.SUCCESS if version == ARM_VERSION else INCOMPATIBLE
            line.reply(answer(command, number, CONNECT_RESPONSE.pack(status, ARM_VERSION)))
            return True
        if not line.port:
            return False
        if command == Command.GET_ROBOT_MODEL:
            body = bytes([Status.SUCCESS]) + fr3_urdf().encode()
            line.reply(answer(command, number, body))
            return True
        self._reply(command, number, self._status(command, number, payload))
        return True

    def _status(self, command: Command, number: int, payload: bytes) -> int:
        controller = self.controller
        if command == Command.MOVE:
            try:
                return controller.move(number, MoveRequest.from_bytes(payload))
            except ValueError:
                return MoveStatus.INVALID_ARGUMENT
        if command == Command.STOP_MOVE:
            return controller.stop_move()
        if command == Command.AUTOMATIC_ERROR_RECOVERY:
            return controller.recover()
        if command == Command.SET_COLLISION_BEHAVIOR:
            try:
                controller.behavior = CollisionBehavior.from_bytes(payload)
            except ValueError:
                return Status.INVALID_ARGUMENT
            return Status.SUCCESS
        if command in SETTERS:
            return Status.SUCCESS if controller.may_change else Status.NOT_POSSIBLE
        same = np.allclose(np.frombuffer(payload, "<f8"), np.eye(4).ravel())
        return Status.SUCCESS if same else Status.INVALID_ARGUMENT  # the tool is the gripper

    def _reply(self, command: Command, number: int, status: int) -> None:
        if self._arm is not None:
            self._arm.reply(answer(command, number, bytes([status])))

    def _attend_gripper(self) -> None:
        line = self._gripper
        if line is None:
            return
        requests = line.requests(GRIPPER_HEADER)
        for command, number, payload in requests or []:
            connecting = command == GripperCommand.CONNECT
            if command not in list(GripperCommand) or (
                connecting and len(payload) != CONNECT_REQUEST.size
            ):
                requests = None
                break
            if connecting:
                version, line.port = CONNECT_REQUEST.unpack(payload)
                status = Status.SUCCESS if version == GRIPPER_VERSION else INCOMPATIBLE
                body = GRIPPER_CONNECT_RESPONSE.pack(status, GRIPPER_VERSION)
                line.reply(gripper_answer(command, number, body))
            else:
                self._answer_gripper(self.gripper.request(GripperCommand(command), number, payload))
        if requests is None:
            line.close()
            self._gripper = None

    def _answer_gripper(self, ended: list[tuple[GripperCommand, int, GripperStatus]]) -> None:
        for command, number, status in ended:
            if self._gripper is not None:
                self._gripper.reply(gripper_answer(command, number, GRIPPER_STATUS.pack(status)))
