"""`python -m images.check [TARGET ...]`: builds the images' environments with the Dockerfile's own steps and
runs their processes, without a container engine; see README.md beside it.

Exit status 0, or 1 with what is wrong on stderr.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from images.build import ENVIRONMENT, Build
from images.container import CheckFailed, Container, written
from images.contents import check_contents
from images.context import copy_context
from images.dockerfile import read_dockerfile

TREE = Path(__file__).resolve().parents[1]
TARGETS = ("gateway", "engine", "engine-cpu")
BLOCKS = 3
PROMPT = "a red circle moves left"
FRAMES = "import av, sys; print(sum(1 for _ in av.open(sys.argv[1]).decode(video=0)))"
PICTURES = 9 + 12 * (BLOCKS - 1)
"""Of the demo model: the first latent frame of a video is one picture, each other four."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description="Checks the images without a container engine.")
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)} (default: all)"
    )
    parser.add_argument(
        "--build-arg",
        action="append",
        default=["TORCH_INDEX="],
        metavar="NAME=VALUE",
        help="as of docker build (default: TORCH_INDEX=, what pip finds by itself)",
    )
    options = parser.parse_args(arguments)
    if unknown := [target for target in options.targets if target not in TARGETS]:
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    values = dict(pair.partition("=")[::2] for pair in options.build_arg)
    with tempfile.TemporaryDirectory(prefix="cascade-images-") as folder:
        try:
            check(Path(folder), options.targets or TARGETS, values)
        except CheckFailed as error:
            print(f"images: {error}", file=sys.stderr)
            return 1
        except subprocess.CalledProcessError as error:
            print(f"images: {error}\n{error.stdout or ''}{error.stderr or ''}", file=sys.stderr)
            return 1
    return 0


def check(folder: Path, targets: Sequence[str], arguments: dict[str, str]) -> None:
    """Raises CheckFailed, or CalledProcessError for a step that failed."""
    folder.chmod(0o755)  # the images' user has to get in
    if closed := [str(parent) for parent in folder.parents if not parent.stat().st_mode & 0o001]:
        raise CheckFailed(f"set TMPDIR to a folder that user 10001 can get into: {closed[0]} is closed to it")
    copy_context(TREE, folder / "context")
    builds = {target: build(folder, target, arguments) for target in targets}
    engines = [builds[target] for target in targets if target != "gateway"]
    if gateway := builds.get("gateway"):
        for engine in engines:
            with step(f"{engine.target} with gateway: a video"):
                check_system(gateway, engine)
        if not engines:
            with step("gateway: serves and stops"):
                check_gateway(gateway)
    for made in builds.values():
        for line in made.left_out:
            print(f"{made.target}: not run here: {line}")


def build(folder: Path, target: str, arguments: dict[str, str]) -> Build:
    made = Build(read_dockerfile(TREE / "Dockerfile"), target, folder / "context", folder / target)
    with step(f"{target}: install"):
        made.run(arguments)
    with step(f"{target}: contents"):
        check_contents(made)
    return made


def check_gateway(gateway: Build) -> None:
    with unchanged(gateway), Container(gateway, "gateway") as server:
        server.wait_until_healthy()
        server.stop()


def check_system(gateway: Build, engine: Build) -> None:
    """A stage, a decoder and a gateway, each from its image, make a video for the gateway's command."""
    with (
        unchanged(gateway, engine),
        Container(engine, "stage") as stage,
        Container(engine, "decoder", ["services.decoder"]) as decoder,
    ):
        peers = {
            "CASCADE_GATEWAY_STAGES": f"127.0.0.1:{stage.port()}",
            "CASCADE_GATEWAY_DECODERS": f"127.0.0.1:{decoder.port()}",
        }
        with Container(gateway, f"gateway-of-{engine.target}", environment=peers) as server:
            for each in (stage, decoder, server):
                each.wait_until_healthy()
            video = server.folder / "video.mp4"
            make_video(gateway, server, video)
            count_pictures(engine, decoder, video)
            for each in (server, decoder, stage):
                each.stop()


def make_video(gateway: Build, server: Container, to: Path) -> None:
    cascade = str(gateway.path(ENVIRONMENT) / "bin" / "cascade")
    where = ["--gateway", f"127.0.0.1:{server.port()}", "--out", str(to)]
    made = server.execute([cascade, "generate", PROMPT, "--blocks", str(BLOCKS), *where])
    if made.returncode:
        raise CheckFailed(f"cascade generate ended with {made.returncode}: {made.stderr}")


def count_pictures(engine: Build, decoder: Container, video: Path) -> None:
    """With the engine's own libraries: the gateway has none."""
    copy = decoder.folder / video.name
    copy.write_bytes(video.read_bytes())
    python = str(engine.path(ENVIRONMENT) / "bin" / "python")
    counted = decoder.execute([python, "-c", FRAMES, str(copy)])
    if counted.stdout.strip() != str(PICTURES):
        raise CheckFailed(
            f"the video has {counted.stdout.strip()} pictures, not {PICTURES}: {counted.stderr}"
        )


@contextmanager
def unchanged(*builds: Build) -> Iterator[None]:
    """The file system of an image is read-only. Raises CheckFailed where a process wrote to it."""
    folders = [made.path(part) for made in builds for part in ("/opt", "/usr")]
    before = written(folders)
    yield
    if changed := sorted(str(path) for path, _ in written(folders).items() ^ before.items()):
        raise CheckFailed(f"written at run time: {', '.join(changed[:5])}")


@contextmanager
def step(title: str) -> Iterator[None]:
    start = time.monotonic()
    print(f"{title} ...", flush=True)
    yield
    print(f"{title}: {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
