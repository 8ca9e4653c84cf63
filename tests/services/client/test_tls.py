"""What the commands are told about TLS, and what they say where it does not go together."""

from pathlib import Path

import pytest

from cascade_client.console import CommandFailed, CommandParser, add_gateway, read_tls


def read(*arguments: str) -> object:
    parser = CommandParser("")
    add_gateway(parser)
    return read_tls(parser.parse_args(arguments))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--certificate", "a"], "--certificate and --certificate-key belong together"),
        (["--ca", "system", "--certificate-key", "a"], "--certificate and --certificate-key belong together"),
        (["--certificate", "a", "--certificate-key", "b"], "--certificate and --server-name need --ca"),
        (["--server-name", "a"], "--certificate and --server-name need --ca"),
        (["--ca", "/no/ca"], "--ca: no file /no/ca"),
        (
            ["--ca", "system", "--certificate", "/no/c", "--certificate-key", "/no/k"],
            "--certificate: no file /no/c",
        ),
    ],
)
def test_what_does_not_go_together_is_told(arguments: list[str], told: str) -> None:
    with pytest.raises(CommandFailed) as failed:
        read(*arguments)
    assert str(failed.value).startswith(told)


def test_what_is_told_is_used(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("ca", "certificate", "key")]
    for file in files:
        file.touch()
    ca, certificate, key = map(str, files)
    tls = read(
        "--ca", ca, "--certificate", certificate, "--certificate-key", key, "--server-name", "peer"
    )  # fmt: skip
    assert [tls.ca, tls.certificate, tls.key, tls.server_name] == [*files, "peer"]
    assert read() is None
    assert read("--ca", "system").ca is None
