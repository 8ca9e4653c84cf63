"""`cascade models`: what sessions can be made with at a gateway."""

from typing import Any

from google.protobuf.json_format import MessageToDict

from cascade.v1 import session_pb2
from cascade_client.console import (
    Commands,
    Options,
    add_command,
    add_gateway,
    add_json,
    make_client,
    print_json,
    print_table,
)

Row = tuple[str, ...]


def add_commands(commands: Commands) -> None:
    parser = add_command(commands, "models", run, "list the models and LoRAs that sessions can name")
    add_json(parser)
    add_gateway(parser)


async def run(options: Options) -> int:
    async with make_client(options) as client:
        models = await client.models()
    if options.json:
        print_json([values(model) for model in models])
    elif models:
        print_table(("MODEL", "SIZE", "LICENCE"), [row(model) for model in models])
        if loras := [lora_row(model, lora) for model in models for lora in model.loras]:
            print()
            print_table(("LORA", "OF", "LICENCE"), loras)
    else:
        print("no stage has reported yet")
    return 0


def values(model: session_pb2.Model) -> dict[str, Any]:
    return MessageToDict(model, preserving_proto_field_name=True)


def row(model: session_pb2.Model) -> Row:
    name = f"{model.name} (default)" if model.is_default else model.name
    size = f"{model.width}x{model.height}" if model.width else "-"
    return name, size, licence(model.licence, model.commercial_use)


def lora_row(model: session_pb2.Model, lora: Any) -> Row:
    return lora.name, model.name, licence(lora.licence, lora.commercial_use)


def licence(name: str, commercial_use: bool) -> str:
    known = name or "licence not told"
    return known if commercial_use else f"{known}, not for commercial use"
