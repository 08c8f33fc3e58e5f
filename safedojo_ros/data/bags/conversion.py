"""Bags in, episodes of the LeRobot layout out, with a report of everything that was amiss."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safedojo_ros.core.errors import DatasetError
from safedojo_ros.data.bags.episodes import ConversionConfig, episodes_of
from safedojo_ros.data.bags.reader import BagReader
from safedojo_ros.data.bags.series import Finding
from safedojo_ros.data.bags.takes import TakeSplitter
from safedojo_ros.data.lerobot.writer import EpisodeWriter


@dataclass
class TakeReport:
    """What became of one take; steps of each of its episodes."""

    bag: str
    episodes: list[int]
    success: bool | None
    contact_steps: int
    cost_source: str
    """Who says which steps have contact; "": nobody."""
    dropped: list[str]
    findings: list[Finding]


@dataclass
class ConversionReport:
    """broken: {bag: how far it could be read}; findings: clocks and messages that were amiss."""

    bags: int = 0
    messages: int = 0
    namespace: str = ""
    """Of the topics that were read."""
    other_targets: list[str] = field(default_factory=list)
    """Targets in other namespaces, of other robots."""
    misfits: list[str] = field(default_factory=list)
    """Topics of another type than the one expected, which were not read."""
    unread: dict[str, int] = field(default_factory=dict)
    """Messages of each topic that nothing is made of."""
    broken: dict[str, str] = field(default_factory=dict)
    takes: list[TakeReport] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def episodes(self) -> int:
        """How many were written."""
        return sum(len(take.episodes) for take in self.takes)

    @property
    def steps(self) -> int:
        """Of all episodes together."""
        return sum(sum(take.episodes) for take in self.takes)

    def as_json(self) -> dict[str, Any]:
        """For a file beside the dataset."""
        return asdict(self) | {"episodes": self.episodes, "steps": self.steps}


def convert(
    bags: list[Path],
    writer: EpisodeWriter,
    config: ConversionConfig,
    namespace: str | None = None,
) -> ConversionReport:
    """Write the episodes of `bags`, in their order; a recording may go on from bag to bag.

    namespace: of the robot's topics; None: that of the first target in the bags, or of the first
    pose where there are no targets.
    """
    leading = leading_topic(config)
    if namespace is None:
        namespace = namespace_of(bags, leading)
    report = ConversionReport(namespace=namespace)
    splitter = TakeSplitter(
        config.camera_sources,
        config.image_size,
        config.max_gap,
        config.topics,
        namespace,
        config.instruction,
        config.resize,
    )
    for bag in bags:
        _read(bag, splitter, report, leading)
        _write(splitter, writer, config, report)
    splitter.close()
    _write(splitter, writer, config, report)
    report.findings, report.misfits = splitter.findings, list(splitter.misfits.values())
    return report


def leading_topic(config: ConversionConfig) -> str:
    """The topic without which there is no episode."""
    topics = config.topics
    return (topics.target or topics.pose or topics.arm).strip("/")


def namespace_of(bags: list[Path], target_topic: str) -> str:
    """The namespace, without slashes around it, in which the first target is; "" without one."""
    for bag in bags:
        for message in BagReader(bag).messages():
            if _is_target(message.topic, target_topic):
                return message.topic.removesuffix(target_topic).strip("/")
    return ""


def _is_target(topic: str, target_topic: str) -> bool:
    return f"/{topic}".endswith(f"/{target_topic}")


def _read(bag: Path, splitter: TakeSplitter, report: ConversionReport, target_topic: str) -> None:
    reader = BagReader(bag)
    report.bags += 1
    begun = False
    for message in reader.messages():
        if not begun:
            splitter.new_bag(bag.name, message.heard_at)
            begun = True
        if not splitter.wants(message.topic, message.kind):
            if not splitter.knows(message.topic):
                report.unread[message.topic] = report.unread.get(message.topic, 0) + 1
            others = report.other_targets
            if _is_target(message.topic, target_topic) and message.topic not in others:
                others.append(message.topic)
            continue
        try:
            decoded = reader.decode(message)
        except DatasetError as error:
            splitter.unusable(message.topic, message.heard_at, str(error))
            continue
        splitter.feed(message.topic, message.heard_at, decoded)
    report.messages += reader.read
    if reader.fault:
        report.broken[bag.name] = reader.fault


def _write(
    splitter: TakeSplitter,
    writer: EpisodeWriter,
    config: ConversionConfig,
    report: ConversionReport,
) -> None:
    takes, splitter.takes = splitter.takes, []
    for take in takes:
        converted = episodes_of(take, config)
        for episode in converted.episodes:
            writer.add(episode)
        report.takes.append(
            TakeReport(
                bag=take.bag,
                episodes=[len(episode) for episode in converted.episodes],
                success=None if take.outcome is None else bool(take.outcome.get("success")),
                contact_steps=int(sum(e.cost.sum() for e in converted.episodes)),
                cost_source=converted.episodes[0].cost_source if converted.episodes else "",
                dropped=converted.dropped,
                findings=converted.findings,
            )
        )


def all_findings(report: ConversionReport) -> Iterator[Finding]:
    """Those of the recording and those of every take."""
    yield from report.findings
    for take in report.takes:
        yield from take.findings
