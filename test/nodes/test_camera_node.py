"""What describes an image changes with it."""

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("safedojo_ros.msg")

from rclpy.context import Context
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, CompressedImage

from safedojo_ros.data.images import decode_compressed, fit_image
from safedojo_ros.nodes import camera_node
from safedojo_ros.nodes.camera_node import CameraNode
from safedojo_ros.nodes.conversion import (
    array_from_image,
    camera_info,
    image_from_array,
    jpeg_from_array,
)


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a cell with the camera `a`."""
    file = tmp_path_factory.mktemp("cell") / "a.yaml"
    parts = "action: {kind: joints, parts: [{key: a, size: 1}]}"
    file.write_text("cameras: [{name: a}]\nstate: [{key: s, size: 1}]\n" + parts)
    return str(file)


listeners = [0]
"""How many listen to the compressed images."""


@pytest.fixture
def published(context: Context, contract: str) -> Iterator[tuple[CameraNode, list[Any], list[Any]]]:
    """A node that resizes to 64x64, and what it publishes: images and infos."""
    settings = {
        "contract": contract,
        "sources": ["topic:/driver"],
        "fovy": [40.0],
        "width": 64,
        "height": 64,
    }
    node = CameraNode(
        context=context, parameter_overrides=[Parameter(n, value=v) for n, v in settings.items()]
    )
    node.configure()
    images: list[Any] = []
    infos: list[Any] = []
    listeners[0] = 0
    node._cameras[0].images = SimpleNamespace(publish=images.append)
    node._cameras[0].infos = SimpleNamespace(publish=infos.append)
    node._cameras[0].compressed = SimpleNamespace(
        publish=images.append, get_subscription_count=lambda: listeners[0]
    )
    yield node, images, infos
    node._cameras.clear()
    node.shut_down()
    node.destroy_node()


def test_a_resized_image_has_the_focal_lengths_of_its_own_pixels(
    published: tuple[CameraNode, list[Any], list[Any]],
) -> None:
    node, images, infos = published
    node._relay(node._cameras[0], image_from_array(np.zeros((480, 640, 3), np.uint8), 7, "lens"))
    (info,) = infos
    assert (images[0].width, images[0].height, info.width, info.height) == (64, 64, 64, 64)
    assert (info.k[0], info.k[4]) == pytest.approx((87.92, 87.92), abs=0.01)
    assert (info.p[0], info.p[5]) == pytest.approx((87.92, 87.92), abs=0.01)
    assert (info.k[2], info.k[5]) == (31.5, 31.5)


def test_a_driver_s_calibration_follows_its_image_through_crop_and_resize(
    published: tuple[CameraNode, list[Any], list[Any]],
) -> None:
    node, _, infos = published
    driver = CameraInfo(width=640, height=480, distortion_model="plumb_bob", d=[0.1, 0, 0, 0, 0])
    driver.k = [600.0, 0.0, 320.0, 0.0, 610.0, 250.0, 0.0, 0.0, 1.0]
    driver.p = [600.0, 0.0, 320.0, 0.0, 0.0, 610.0, 250.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    image = image_from_array(np.zeros((480, 640, 3), np.uint8), 7, "lens")
    node._relay(node._cameras[0], image)
    assert infos[-1].k[0] == pytest.approx(87.92, abs=0.01)  # by fovy, until the driver speaks
    node._on_calibration(node._cameras[0], driver)
    node._relay(node._cameras[0], image)
    shrunk = 64 / 480
    middle = (320.0 + 0.5 - 80) * shrunk - 0.5, (250.0 + 0.5) * shrunk - 0.5
    wanted = [600 * shrunk, 0, middle[0], 0, 610 * shrunk, middle[1], 0, 0, 1]
    np.testing.assert_allclose(infos[-1].k, wanted, atol=1e-9)
    np.testing.assert_allclose(np.array(infos[-1].p).reshape(3, 4)[:, :3].ravel(), wanted)
    assert list(infos[-1].d) == [0.1, 0, 0, 0, 0]
    driver = CameraInfo(width=320, height=240, k=driver.k, p=driver.p)  # of another image
    node._on_calibration(node._cameras[0], driver)
    node._cameras[0].described = None
    node._relay(node._cameras[0], image)
    assert infos[-1].k[0] == pytest.approx(87.92, abs=0.01)


def test_compressed_images_are_taken_and_given_where_one_listens(
    published: tuple[CameraNode, list[Any], list[Any]],
) -> None:
    node, images, infos = published
    wide = np.full((480, 640, 3), (200, 30, 60), np.uint8)
    node._relay_compressed(node._cameras[0], jpeg_from_array(wide, 9, "lens"))
    (image,) = images
    assert (image.width, image.height, image.encoding, image.header.frame_id) == (
        64,
        64,
        "rgb8",
        "lens",
    )
    np.testing.assert_allclose(array_from_image(image)[32, 32], (200, 30, 60), atol=6)
    listeners[0] = 1
    node._relay(node._cameras[0], image_from_array(wide, 10, "lens"))
    compressed = images[-1]
    assert isinstance(compressed, CompressedImage)
    np.testing.assert_allclose(decode_compressed(compressed.data)[32, 32], (200, 30, 60), atol=6)
    assert compressed.header == infos[-1].header
    node._relay_compressed(node._cameras[0], CompressedImage(data=b"no image"))
    assert "cannot be read" in node._cameras[0].fault
    assert len(images) == 3


@pytest.mark.parametrize(
    ("source", "topics"),
    [
        ("topic:/d/color/image_raw", ["/d/color/image_raw", "/d/color/camera_info"]),
        ("topic:/d/image_raw/compressed", ["/d/image_raw/compressed", "/d/camera_info"]),
        ("sim", ["/sim/a/image"]),
    ],
)
def test_a_driver_s_topics_are_those_of_image_transport(
    context: Context, contract: str, source: str, topics: list[str]
) -> None:
    settings = {"contract": contract, "sources": [source], "fovy": [0.0]}
    node = CameraNode(
        context=context, parameter_overrides=[Parameter(n, value=v) for n, v in settings.items()]
    )
    try:
        node.configure()
        node.activate()
        assert [s.topic_name for s in node._cameras[0].subscriptions] == topics
        given = {p.topic_name for p in node.publishers}
        assert "/camera/a/image_raw/compressed" in given
    finally:
        node.deactivate()
        node.cleanup()
        node.shut_down()
        node.destroy_node()


def test_an_image_without_change_keeps_one_focal_length() -> None:
    info = camera_info(640, 480, 40.0, 0, "lens", (640, 480))
    assert info.k[0] == info.k[4] == pytest.approx(659.4, abs=0.1)
    assert not any(camera_info(640, 480, 0.0, 0, "lens", (640, 480)).k)


@pytest.mark.parametrize("side", [64, 32])
@pytest.mark.parametrize(("frame", "wanted"), [("lens", "lens"), ("", "camera_a")])
def test_an_image_and_its_description_are_of_the_same_frame(
    published: tuple[CameraNode, list[Any], list[Any]], side: int, frame: str, wanted: str
) -> None:
    node, images, infos = published
    node._relay(node._cameras[0], image_from_array(np.zeros((side, side, 3), np.uint8), 7, frame))
    assert images[0].header.frame_id == infos[0].header.frame_id == wanted
    assert images[0].header.stamp == infos[0].header.stamp


def test_a_description_follows_a_camera_that_changes_its_size(
    published: tuple[CameraNode, list[Any], list[Any]],
) -> None:
    node, _, infos = published
    for height, width in ((64, 64), (128, 64)):
        node._relay(
            node._cameras[0], image_from_array(np.zeros((height, width, 3), np.uint8), 7, "x")
        )
    assert [round(info.k[0], 2) for info in infos] == [87.92, 175.84]


def test_a_reader_that_ends_late_is_not_woken_by_the_next_activation(
    context: Context, contract: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"contract": contract, "sources": ["http://camera/x"], "fovy": [0.0]}
    node = CameraNode(
        context=context, parameter_overrides=[Parameter(n, value=v) for n, v in settings.items()]
    )
    seen: list[threading.Event] = []

    def frames(source: Any, rate: float, closing: threading.Event, capture: Any) -> list[Any]:
        seen.append(closing)
        return []

    monkeypatch.setattr(camera_node, "frames", frames)
    monkeypatch.setattr(
        camera_node, "open_capture", lambda _: SimpleNamespace(release=lambda: None)
    )
    node.configure()
    try:
        for _ in range(2):
            node.activate()
            node.deactivate()
        assert seen[0] is not seen[1]
        assert all(closing.is_set() for closing in seen)
    finally:
        node.cleanup()
        node.shut_down()
        node.destroy_node()


def test_a_letterboxed_image_is_that_of_the_contract_s_rule_and_its_calibration_follows(
    published: tuple[CameraNode, list[Any], list[Any]],
) -> None:
    node, images, infos = published
    node._rule = "letterbox"
    wide = np.random.default_rng(0).integers(0, 255, (480, 640, 3)).astype(np.uint8)
    node._relay(node._cameras[0], image_from_array(wide, 7, "lens"))
    np.testing.assert_array_equal(array_from_image(images[0]), fit_image(wide, 64, 64, "letterbox"))
    assert (infos[0].k[0], infos[0].k[4]) == pytest.approx((65.94, 65.94), abs=0.01)
    driver = CameraInfo(width=640, height=480, distortion_model="plumb_bob", d=[0.0] * 5)
    driver.k = [600.0, 0.0, 320.0, 0.0, 610.0, 250.0, 0.0, 0.0, 1.0]
    driver.p = [600.0, 0.0, 320.0, 0.0, 0.0, 610.0, 250.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    node._on_calibration(node._cameras[0], driver)
    node._relay(node._cameras[0], image_from_array(wide, 8, "lens"))
    middle = 320.5 * 0.1 - 0.5, 8 + 250.5 * 0.1 - 0.5
    np.testing.assert_allclose(infos[-1].k, [60, 0, middle[0], 0, 61, middle[1], 0, 0, 1])
