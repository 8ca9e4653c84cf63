"""The web page in a real browser, and viewers over WebSocket.

python -m benchmarks.web [--out FOLDER] [--only TABLE ...] [--minutes 10]

About a quarter of an hour with the default minutes. The page runs in Chromium without a window, on the
machine that also makes the video: real services with the demo model, started here, on the CPU. The viewers
watch one session of a stage and a decoder that compute nothing but send messages of real size.
"""

import argparse
import asyncio
import itertools
import json
import os
import shlex
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from benchmarks import web_far, web_page, web_parts, web_viewers
from benchmarks.folders import need_folder
from cascade_core.commands.bench import table
from cascade_core.machine import machine

Row = dict[str, Any]
TITLES = {
    "first_picture": "From opening the page to the first picture on it, demo model",
    "parts": f"The first picture of a session whose decoder takes {web_parts.BLOCK_S} s a block",
    "switch": "From pressing Switch to the changed picture, demo model",
    "player": "What the page had meanwhile, looked at after each switch",
    "far": f"The same, one session, behind {web_far.LINE}",
    "far_player": "What the page had meanwhile, behind that line",
    "viewers": "Viewers of one session over WebSocket: segments of 150 kB every 0.75 s",
    "webrtc_viewers": "The same over WebRTC (WHEP): H.264 of about as many bytes",
}
NOTES = {
    "first_picture": (
        "From the start of the navigation to the first picture that is drawn or presented with nothing over "
        "it, each time in a fresh profile. `page ready`: until the modules have "
        "come and run. `new session`: Start is pressed as soon as they have. `viewer link`: a link "
        "to a session that plays already."
    ),
    "parts": (
        "Grey pictures, from machines without a model. `part`: the first one has come to the page; `whole`: "
        "all of the first segment has."
    ),
    "switch": (
        "Pixels of what shows: from the click to the first presented picture in which the new "
        "colour outweighs the old one. `asked_to_applied`: until the page heard from which block on it "
        "shows. `just_in_time` off: blocks are made as soon as acks allow "
        "(`CASCADE_GATEWAY_JUST_IN_TIME=false`). `sessions`: on the one stage, each with a page of its own."
    ),
    "player": (
        "`lead`: how long before its playing a block was asked for; `buffer`: what the page could play on; "
        "`stalls`: how often a picture stood still in all, in the `played_s` of all pages together."
    ),
    "far": (
        "Between two network namespaces: everything but the browser is in one, the browser in the other. The "
        "line is a process (`tests/browser/line.py`), since not every kernel has netem; packets that would "
        "queue in it for more than 0.25 s are lost, too."
    ),
    "viewers": (
        "`of_playback`: segments received over those due. `viewers_per_core`: viewers over the gateway "
        "process's CPU seconds per second. `made`: segments that the stage was asked for, over those due: "
        "viewers never hold the video back. `late_p99_ms`: from the decoder's sending to a viewer's receipt; "
        "viewers, fakes and gateway share the machine."
    ),
    "webrtc_viewers": (
        "Each picture is sent when it is due, in packets that are encrypted for each viewer. The viewers "
        "(aiortc) decode, in a process beside the gateway: they bound how many fit on this machine."
    ),
}


TABLES = [name for name in TITLES if not name.endswith("player")]
"""Those that can be asked for; others come with them."""
NUM_SESSIONS = (1, 3)


async def measure(names: list[str], minutes: float) -> AsyncIterator[dict[str, list[Row]]]:
    """Tables, as soon as they are there."""
    if "first_picture" in names:
        async with web_page.opened() as page:
            yield {"first_picture": await page.measure_first_picture()}
    if "parts" in names:
        yield {"parts": await web_parts.measure()}
    switches: list[Row]
    players: list[Row]
    if "switch" in names:
        switches, players = [], []
        for num_sessions, is_just_in_time in itertools.product(NUM_SESSIONS, (False, True)):
            async with web_page.opened(is_just_in_time=is_just_in_time) as page:
                steering = await page.measure_switch(num_sessions, 60 * minutes)
            which = {"sessions": num_sessions} | on_or_off(is_just_in_time)
            switches += [which | each for each in steering.switches()]
            players.append(which | steering.player())
            yield {"switch": switches, "player": players}
    if "far" in names:
        switches, players = [], []
        for is_just_in_time in (False, True):
            steering = await web_far.measure(60 * minutes, is_just_in_time=is_just_in_time)
            switches += [on_or_off(is_just_in_time) | each for each in steering.switches()]
            players.append(on_or_off(is_just_in_time) | steering.player())
            yield {"far": switches, "far_player": players}
    if "viewers" in names:
        yield {"viewers": [await web_viewers.measure(number) for number in web_viewers.NUM_VIEWERS]}
    if "webrtc_viewers" in names:
        numbers = web_viewers.NUM_WEBRTC_VIEWERS
        yield {"webrtc_viewers": [await web_viewers.measure(number, is_webrtc=True) for number in numbers]}


def on_or_off(is_just_in_time: bool) -> Row:
    return {"just_in_time": "on" if is_just_in_time else "off"}


def render(results: dict[str, Any]) -> str:
    """Markdown of all tables."""
    info = results["machine"]
    parts = [
        "# The web page and its viewers",
        f"`{results['command']}` · {info['processor']}, {info['cores']} cores · {info['browser']} · "
        f"{info['date']} · load of the machine before: {info['load_before']:.2f}",
    ]
    for name, title in TITLES.items():
        if rows := results.get(name):
            parts += [f"## {title}", table(rows), *([NOTES[name]] if name in NOTES else [])]
    return "\n\n".join(parts) + "\n"


async def write(results: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Each time that there is more."""
    async for more in measure(arguments.only, arguments.minutes):
        results |= more
        (arguments.out / "web.json").write_text(json.dumps(results, indent=2) + "\n")
        (arguments.out / "web.md").write_text(render(results))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the tables")
    parser.add_argument(
        "--only", nargs="+", choices=TABLES, help="tables to measure (default: all that can be)"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=1.2,
        help="of playing, for `switch` and `far` (default: 1.2)",
    )
    arguments = parser.parse_args()
    problem = web_far.what_is_missing()
    if problem and "far" in (arguments.only or ()):
        parser.error(f"--only far: {problem}")
    arguments.only = arguments.only or [name for name in TABLES if name != "far" or not problem]
    need_folder(arguments.out)
    info = machine() | {"load_before": os.getloadavg()[0], "browser": web_page.browser_version()}
    command = shlex.join(["python", "-m", "benchmarks.web", *sys.argv[1:]])
    asyncio.run(write({"command": command, "machine": info}, arguments))
    print((arguments.out / "web.md").read_text())


if __name__ == "__main__":
    main()
