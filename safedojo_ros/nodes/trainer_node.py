"""Trains beside the working robot: action `train`, `trainer/progress` (latched).

The pipeline runs in a process of its own with the lowest priority. A goal is checked, then
accepted; while it runs its feedback says how far it is; canceling it saves what there is. A
trainer that was ended or killed goes on with its run when it comes back. Publishes, through the
pipeline, only what passes every gate, and says so only of what is whole in the store.

A goal's status stays ACCEPTED until its result is there: an `execute` callback that waits would
keep rclpy's executor busy.
"""

import os
import sys
from pathlib import Path
from typing import Any

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle

from safedojo_ros.action import Train
from safedojo_ros.checkpoints.names import user_store
from safedojo_ros.checkpoints.store.store import CheckpointStore
from safedojo_ros.core.errors import ConfigError, SafeDojoError
from safedojo_ros.core.files import expand_home
from safedojo_ros.msg import TrainingProgress
from safedojo_ros.nodes.lifecycle import LATCHED, OK, WARN, DojoNode, Setting
from safedojo_ros.nodes.stack.spinning import run_node
from safedojo_ros.pipeline.goal import TrainingGoal, checked_goal
from safedojo_ros.pipeline.process import COMMAND
from safedojo_ros.pipeline.runs import RunEnd, RunState
from safedojo_ros.pipeline.supervisor import TrainingSupervisor

LOOK_PERIOD = 0.2
"""Seconds between two looks at the pipeline."""

SETTINGS = (
    Setting("root", "~/.local/share/safedojo/training", "Folder of the runs."),
    Setting("data_root", "~/.local/share/safedojo", "Folder that holds all data sets of goals."),
    Setting("store", "", "Folder of the checkpoint store; empty: the user's."),
    Setting("command", [""], "Words that start the pipeline; empty: this package's own."),
    Setting("resume", True, "Go on with a run that was interrupted."),
    Setting("idle", True, "Compute only when nothing else wants the processor."),
    Setting("grace", 60.0, "Longest wait for a pipeline that was asked to stop (s).", 0.1, 3600.0),
)

STATES = {
    None: TrainingProgress.IDLE,
    RunState.RUNNING: TrainingProgress.RUNNING,
    RunState.STOPPING: TrainingProgress.STOPPING,
    RunState.PUBLISHED: TrainingProgress.PUBLISHED,
    RunState.FINISHED: TrainingProgress.FINISHED,
    RunState.REFUSED: TrainingProgress.REFUSED,
    RunState.CANCELED: TrainingProgress.CANCELED,
    RunState.FAILED: TrainingProgress.FAILED,
}
LEFT = "the trainer was stopped; the run goes on when it is started again"


class TrainerNode(DojoNode):
    """Converts and publishes; which run goes on is `training_supervisor`'s."""

    def __init__(self, **options: Any) -> None:
        super().__init__("trainer_node", SETTINGS, **options)
        self._supervisor: TrainingSupervisor | None = None
        self._server: ActionServer | None = None
        self._handle: ServerGoalHandle | None = None
        self._wanted: TrainingGoal | None = None
        self._answer: RunEnd | None = None

    # ---------------------------------------------------------------- life cycle

    def configure(self) -> None:
        """Check the folders and offer the action."""
        self._root = self._folder("root")
        self._data_root = self._folder("data_root")
        store = str(self.setting("store"))
        self._store = expand_home(store).absolute() if store else user_store().root
        try:
            self._root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"'root' {self._root} cannot be made: {error.strerror}") from None
        if not os.access(self._root, os.W_OK):
            raise ConfigError(f"'root' {self._root} cannot be written; choose another folder")
        command = tuple(word for word in self.setting("command") if word)
        self._supervisor = TrainingSupervisor(
            self._root,
            self._store,
            command or COMMAND,
            CheckpointStore(self._store).verify,
            idle=bool(self.setting("idle")),
            grace=float(self.setting("grace")),
        )
        self._progress = self.create_publisher(TrainingProgress, "trainer/progress", LATCHED)
        self._server = ActionServer(
            self,
            Train,
            "train",
            execute_callback=self._on_over,
            goal_callback=self._on_goal,
            handle_accepted_callback=self._on_accepted,
            cancel_callback=self._on_cancel,
        )

    def _folder(self, name: str) -> Path:
        return expand_home(str(self.setting(name))).absolute()

    def activate(self) -> None:
        """Go on with what was interrupted, and look after the pipeline from now on."""
        assert self._supervisor is not None
        if self.setting("resume"):
            run = self._supervisor.resume()
            if run is not None:
                self.get_logger().info(f"run {run.path.name} goes on")
        self._timer = self.create_timer(LOOK_PERIOD, self._look)
        self._tell()

    def deactivate(self) -> None:
        """The pipeline saves and ends; its run stays."""
        if self._supervisor is None or not hasattr(self, "_timer"):
            return
        self.destroy_timer(self._timer)
        del self._timer
        self._supervisor.leave(float(self.setting("grace")))
        self._finish(self._supervisor.end or RunEnd(RunState.FAILED, LEFT))

    def cleanup(self) -> None:
        """Take the action back."""
        if self._server is not None:
            self._server.destroy()
            self.destroy_publisher(self._progress)
        self._server = self._supervisor = None

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        """What runs, how far it is, or how the last one ended."""
        assert self._supervisor is not None
        supervisor = self._supervisor
        values: dict[str, Any] = {
            "root": self._root,
            "store": self._store,
            "run": supervisor.run.path.name if supervisor.run is not None else "",
        }
        if supervisor.end is not None:
            level = WARN if supervisor.end.state == RunState.FAILED else OK
            return level, f"{supervisor.end.state}: {supervisor.end.reason}", values
        if not supervisor.busy:
            return OK, "waits for a goal", values
        progress = supervisor.progress
        values |= {"step": progress.step, "total": progress.total} | dict(progress.metrics)
        return OK, supervisor.waiting or f"trains: {progress.stage or 'starting'}", values

    # ---------------------------------------------------------------- the action

    def _on_goal(self, request: Train.Goal) -> GoalResponse:
        supervisor = self._supervisor
        try:
            if supervisor is None or not self.active:
                raise ConfigError("the node is not active")
            if supervisor.busy or self._wanted is not None:
                raise ConfigError("a run goes on; cancel it first")
            self._wanted = checked_goal(
                request.preset,
                list(request.data),
                request.base,
                request.publish,
                self._data_root,
                self._store,
            )
        except SafeDojoError as error:
            self.get_logger().error(f"goal rejected: {error}")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _on_accepted(self, handle: ServerGoalHandle) -> None:
        assert self._supervisor is not None
        goal, self._wanted = self._wanted, None
        self._handle = handle
        try:
            assert goal is not None
            run = self._supervisor.start(goal)
        except SafeDojoError as error:
            self._finish(RunEnd(RunState.FAILED, str(error)))
            return
        self.get_logger().info(f"run {run.path.name}: {goal.as_json()}")
        self._tell()

    def _on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        if self._supervisor is None or handle is not self._handle:
            return CancelResponse.REJECT
        self._supervisor.cancel()
        return CancelResponse.ACCEPT

    def _look(self) -> None:
        supervisor = self._supervisor
        if supervisor is None or not supervisor.step():
            return
        self._tell()
        if supervisor.end is not None:
            self.get_logger().info(f"{supervisor.end.state}: {supervisor.end.reason}")
            self._finish(supervisor.end)
        elif self._handle is not None:
            progress = supervisor.progress
            feedback = Train.Feedback(stage=progress.stage, step=progress.step)
            feedback.total = progress.total
            feedback.metric_names = list(progress.metrics)
            feedback.metric_values = list(progress.metrics.values())
            self._handle.publish_feedback(feedback)

    def _finish(self, end: RunEnd) -> None:
        """Give the goal in progress, if any, its result."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._answer = end
            handle.execute()

    def _on_over(self, handle: ServerGoalHandle) -> Train.Result:
        end = self._answer or RunEnd(RunState.FAILED, LEFT)
        if end.state in (RunState.PUBLISHED, RunState.FINISHED):
            handle.succeed()
        elif handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.abort()
        return Train.Result(published=end.published, reason=end.reason)

    def _tell(self) -> None:
        """Publish `trainer/progress`."""
        supervisor = self._supervisor
        if supervisor is None or not self.context.ok():
            return
        progress, end = supervisor.progress, supervisor.end
        message = TrainingProgress(
            state=STATES[supervisor.state],
            run=supervisor.run.path.name if supervisor.run is not None else "",
            stage=progress.stage,
            step=progress.step,
            total=progress.total,
            metric_names=list(progress.metrics),
            metric_values=list(progress.metrics.values()),
            published=end.published if end is not None else "",
            reason=end.reason if end is not None else "",
        )
        message.header.stamp = self.get_clock().now().to_msg()
        self._progress.publish(message)


def main(arguments: list[str] | None = None) -> int:
    """Run the node until SIGINT."""
    return run_node(TrainerNode, arguments)


if __name__ == "__main__":
    sys.exit(main())
