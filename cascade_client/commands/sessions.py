"""`cascade sessions`, `switch`, `pause`, `resume` and `delete`."""

import asyncio
import time
from dataclasses import asdict
from typing import Any

from cascade_client.client import Client
from cascade_client.commands.arguments import (
    add_loras,
    add_over,
    parse_block,
    parse_count,
    parse_prompt,
    parse_seconds,
    parse_session,
)
from cascade_client.commands.wanted import Wanted, check_loras, check_over, way
from cascade_client.commands.wording import describe_end, describe_state, unknown_words
from cascade_client.console import (
    MODE_HELP,
    MODES,
    CommandFailed,
    CommandParser,
    Commands,
    Options,
    add_command,
    add_gateway,
    add_json,
    make_client,
    print_json,
    print_table,
)
from cascade_client.events import PromptReceipt
from cascade_client.prompts import Transition
from cascade_client.session import Session, make_request_id

STATES = ("queued", "starting", "active", "paused", "recovering", "ended")
POLL_S = 0.5
NUM_SHOWN = 50


def add_commands(commands: Commands) -> None:
    listing = add_command(commands, "sessions", list_sessions, "list sessions, newest first")
    listing.add_argument(
        "--state",
        action="append",
        default=[],
        choices=STATES,
        metavar="STATE",
        help=f"only those that are {', '.join(STATES)}; may be repeated",
    )
    listing.add_argument(
        "--limit", type=parse_count, default=NUM_SHOWN, help=f"at most (default: {NUM_SHOWN})"
    )
    switching = add_command(commands, "switch", switch, "change what a session shows", words="SESSION PROMPT")
    switching.add_argument("session", type=parse_session, metavar="SESSION", help="its name or id")
    switching.add_argument("prompt", type=parse_prompt, metavar="PROMPT", help="what to show from now on")
    switching.add_argument("--mode", choices=MODES, metavar="MODE", help=f"how it takes over: {MODE_HELP}")
    switching.add_argument(
        "--cut", dest="mode", action="store_const", const="cut", help="as --mode cut: begin a new shot"
    )
    add_over(switching)
    switching.add_argument("--at-block", type=parse_block, metavar="BLOCK", help="when this block starts")
    add_loras(switching, ", in place of those before; without it they stay")
    switching.add_argument("--no-loras", action="store_true", help="from now on no LoRA")
    switching.add_argument("--wait", action="store_true", help="until it has taken effect")
    switching.add_argument(
        "--timeout", type=parse_seconds, default=120.0, help="for --wait, seconds (default: 120)"
    )
    finish(listing, switching)
    for name, run, summary in (
        ("pause", pause, "stop a session for a while"),
        ("resume", resume, "let a paused session go on"),
        ("delete", delete, "end a session"),
    ):
        parser = add_command(commands, name, run, summary, words="SESSION")
        parser.add_argument("session", type=parse_session, metavar="SESSION", help="its name or id")
        finish(parser)


def finish(*parsers: CommandParser) -> None:
    for parser in parsers:
        add_json(parser)
        add_gateway(parser)


async def list_sessions(options: Options) -> int:
    found: list[Session] = []
    async with make_client(options) as client:
        states = [state.upper() for state in options.state]
        async for session in client.list(states=states, page_size=min(options.limit, 500)):
            found.append(session)
            if len(found) == options.limit:
                break
    if options.json:
        print_json([session.to_dict() for session in found])
    elif found:
        print_table(
            ("SESSION", "STATE", "MODEL", "BLOCKS", "VIEWERS", "PROMPT"), [row(each) for each in found]
        )
    else:
        print("no sessions")
    return 0


def row(session: Session) -> tuple[str, ...]:
    message = session.message
    state = describe_end(session.end_reason) if session.end_reason else session.state.lower()
    prompt = message.prompt or message.spec.prompts.get(0, "")  # of a gateway of a former release
    shown = prompt if len(prompt) <= 40 else f"{prompt[:39]}…"
    return session.name, state, message.spec.model, str(message.num_blocks), str(message.num_viewers), shown


async def switch(options: Options) -> int:
    check_over(options)
    check_loras(options)
    async with make_client(options) as client:
        request_id, transition = make_request_id(), await transition_of(client, options)
        give_up_at = time.monotonic() + options.timeout
        while True:
            receipt = await ask(client, options, request_id, transition)
            if not options.wait or receipt.state != "ACCEPTED":
                break
            if time.monotonic() > give_up_at:
                raise CommandFailed(f"accepted, but not applied within {options.timeout:g} s")
            await asyncio.sleep(POLL_S)
    if options.json:
        print_json(receipt_values(receipt))
    else:
        print(receipt_sentence(receipt))
    return 1 if receipt.state == "REFUSED" else 0


async def transition_of(client: Client, options: Options) -> Transition | None:
    """How long a block is, the session knows. Raises CommandFailed."""
    wanted = Wanted({}, None, None, (), options.over, way(options))
    if not (options.over and options.over.seconds):
        return wanted.transition(0.0, 0)
    session = await client.get(options.session)
    if not session.block_frames:
        raise CommandFailed(
            "--over: no machine has the session yet, so a block's length is not known: give blocks"
        )
    return wanted.transition(session.fps, session.block_frames)


async def ask(
    client: Client, options: Options, request_id: str, transition: Transition | None
) -> PromptReceipt:
    """The same request again and again is answered with how far it is."""
    if options.lora and options.no_loras:
        raise CommandFailed("--lora and --no-loras exclude each other")
    loras = dict(options.lora) if options.lora or options.no_loras else None
    return await client.switch(
        options.session,
        options.prompt,
        mode=options.mode,
        at_block=options.at_block,
        loras=loras,
        transition=transition,
        request_id=request_id,
    )


def receipt_values(receipt: PromptReceipt) -> dict[str, Any]:
    return asdict(receipt) | {"error": str(receipt.error) if receipt.error else None}


def receipt_sentence(receipt: PromptReceipt) -> str:
    if receipt.state == "REFUSED":
        return f"refused: {receipt.error}"
    if receipt.state != "APPLIED":
        return f"{receipt.state.lower()} ({receipt.request_id})"
    mixed = f", mixed up to block {receipt.last_block_mixed}" if receipt.last_block_mixed is not None else ""
    words = f"; {unknown_words(receipt.unknown_words)}" if receipt.unknown_words else ""
    return (
        f"applied: seen from {receipt.touched_time_s:.1f} s on (block {receipt.first_block_touched}){mixed}, "
        f"fully from {receipt.full_time_s:.1f} s on (block {receipt.first_block_full}){words}"
    )


async def pause(options: Options) -> int:
    async with make_client(options) as client:
        return tell(await client.pause(options.session), options)


async def resume(options: Options) -> int:
    async with make_client(options) as client:
        return tell(await client.resume(options.session), options)


async def delete(options: Options) -> int:
    async with make_client(options) as client:
        return tell(await client.delete(options.session), options)


def tell(session: Session, options: Options) -> int:
    if options.json:
        print_json(session.to_dict())
    else:
        print(f"{session.name} is {describe_state(session.state, session.message.paused)}")
    return 0
