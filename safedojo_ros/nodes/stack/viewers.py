"""Which live view can be had here: rerun's in the browser, or a window of OpenCV. No ROS."""

import importlib.util
import os
import webbrowser

import cv2

from safedojo_ros.nodes.stack.live_page import rerun_program


def viewer() -> str:
    """The name of the best one: rerun, window, or "" if there is none."""
    if importlib.util.find_spec("rerun") is not None and rerun_program() is not None:
        return "rerun"
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if screen and _has_windows():
        return "window"
    return ""


def missing_viewer() -> str:
    """What to do to get a live view, or "" if there is one."""
    if viewer():
        return ""
    return "install one with 'pip install rerun-sdk' (a page in your browser)"


def open_page(address: str) -> bool:
    """Open a page in the person's browser; False where there is no screen, or no browser."""
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not screen or not address.startswith("http"):
        return False
    try:
        return webbrowser.get().open_new_tab(address)
    except webbrowser.Error:
        return False


def _has_windows() -> bool:
    """opencv-python-headless has no windows."""
    for line in cv2.getBuildInformation().splitlines():
        name, _, value = line.strip().partition(":")
        if name == "GUI":
            return value.strip() not in ("", "NONE")
    return False
