"""Confirm or correct, in the browser, which steps of a data set have contact.

It asks about labels by the wrench or by a safety head, and about episodes that nobody has labelled;
keys: y, n, arrows, space. As soon as an episode's moments are answered it is saved in the set, with
the source `person`. The page is served to this machine alone, until all is answered or Ctrl-C.
"""

import argparse
from pathlib import Path

from safedojo_ros.core.errors import ConfigError


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("set", type=Path, metavar="DIR", help="the data set, which is changed")
    parser.add_argument("--port", type=int, default=0, help="of the page (default: a free one)")


def run(args: argparse.Namespace) -> int:
    """Serve until all is answered or SIGINT; raises `DatasetError` for a set without questions."""
    from safedojo_ros.data.review.review import Review
    from safedojo_ros.data.review.server import ReviewServer

    review = Review(args.set)
    try:
        server = ReviewServer(review, args.port)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"--port {args.port} cannot be used: {error}") from None
    print(f"{len(review.moments)} moments of {len(review.labels)} episodes: {server.address}")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()
    print(
        f"{len(review.saved)} of {len(review.labels)} episodes saved with labels by a person, "
        f"{review.changed} steps of them changed"
    )
    return 0
