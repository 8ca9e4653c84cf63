"""Settings come from the environment over a file, and every complaint names the place to mend."""

from dataclasses import FrozenInstanceError, field
from pathlib import Path

import pytest
from pydantic.dataclasses import dataclass

from cascade_core.config import STRICT, ListedLora
from cascade_core.errors import InvalidConfig
from services.common.environment import load_settings
from services.common.settings import ServerSettings
from services.stage.settings import Settings as StageProcess


@dataclass(frozen=True, config=STRICT)
class StageSection:
    peers: tuple[str, ...] = ()
    slots: int | None = None


@dataclass(frozen=True, config=STRICT)
class StageSettings(ServerSettings):
    stage: StageSection = field(default_factory=StageSection)


def load(**environment: str) -> ServerSettings:
    return load_settings(ServerSettings, environment)


def test_environment_over_file_over_default(tmp_path: Path) -> None:
    path = tmp_path / "cascade.toml"
    path.write_text('[grpc]\nport = 7\nhost = "0.0.0.0"\n[stage]\nslots = 3\n[gateway]\nwhatever = 1\n')
    environment = {
        "CASCADE_CONFIG_FILE": str(path),
        "CASCADE_GRPC_PORT": "8",
        "CASCADE_STAGE_PEERS": "a:1, b:2",
    }
    settings = load_settings(StageSettings, environment)
    assert (settings.grpc.port, settings.grpc.host) == (8, "0.0.0.0")
    assert settings.grpc.keepalive_time_s == 20
    assert settings.stage == StageSection(peers=("a:1", "b:2"), slots=3)


def test_a_list_of_tables_is_json() -> None:
    """As the chart writes it; commas may stand in its texts."""
    text = '[{"name": "ink", "path": "/weights/ink.safetensors", "licence": "MIT, or so"}]'
    settings = load_settings(StageProcess, {"CASCADE_STAGE_LORAS": text})
    assert settings.stage.loras == (
        ListedLora(name="ink", path="/weights/ink.safetensors", licence="MIT, or so"),
    )
    for wrong, complaint in (
        ("[{", "CASCADE_STAGE_LORAS: not a JSON list: "),
        ('[{"name": "ink"}]', "CASCADE_STAGE_LORAS: Field required"),
        (
            '[{"name": "a", "path": "b"}, {"name": "a", "path": "c"}]',
            "CASCADE_STAGE_LORAS: .*a is listed twice",
        ),
        ("ink=/weights/ink.safetensors", "CASCADE_STAGE_LORAS: Input should be a dictionary"),
    ):
        with pytest.raises(InvalidConfig, match=complaint):
            load_settings(StageProcess, {"CASCADE_STAGE_LORAS": wrong})


def test_settings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        load().grpc.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("CASCADE_GRPC_PORT", "99999", "less than or equal to 65535"),
        ("CASCADE_GRPC_PORT", "http", "valid integer"),
        ("CASCADE_GRPC_REFLECTION", "perhaps", "valid boolean"),
        ("CASCADE_DRAIN_GRACE_S", "inf", "finite"),
        ("CASCADE_AUTH_MODES", "magic", "'api_keys', 'jwt' or 'mtls'"),
        ("CASCADE_AUTH_MODES", "api_keys", "keys_file"),
        ("CASCADE_TLS_CERTIFICATE", "/no/such", "come together"),
        ("CASCADE_GRPC_PROT", "1", "CASCADE_GRPC_PORT"),
        ("CASCADE_GRPCPORT", "1", "CASCADE_GRPC_*"),
        ("CASCADE_CONFIG_FILE", "/no/such.toml", "No such file"),
        ("CASCADE_TELEMETRY_OTLP_ENDPOINT", "collector:4317", "pattern"),
    ],
)
def test_a_bad_variable_is_fatal_and_named(variable: str, value: str, says: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        load(**{variable: value})
    assert variable in str(caught.value)
    assert says in str(caught.value)


def test_all_complaints_at_once_and_never_the_value() -> None:
    with pytest.raises(InvalidConfig) as caught:
        load(CASCADE_GRPC_PORT="hunter2", CASCADE_DRAIN_GRACE_S="-1")
    assert "CASCADE_GRPC_PORT" in str(caught.value)
    assert "CASCADE_DRAIN_GRACE_S" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[grpc]\nport = -1\n", "cascade.toml: grpc.port"),
        ("[grpc]\nprot = 1\n", "cascade.toml: grpc.prot"),
        ("[grcp]\nport = 1\n", "cascade.toml: grcp"),
        ("grpc = 3\n", "cascade.toml: grpc"),
        ("[grpc\n", "CASCADE_CONFIG_FILE"),
    ],
)
def test_a_bad_file_is_fatal_and_named(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "cascade.toml"
    path.write_text(content)
    with pytest.raises(InvalidConfig) as caught:
        load(CASCADE_CONFIG_FILE=str(path))
    assert says in str(caught.value) or says.partition(": ")[2] in str(caught.value)


def test_what_kubernetes_and_other_services_put_there_is_passed_over() -> None:
    settings = load(
        CASCADE_STAGE_SERVICE_HOST="10.0.0.1",
        CASCADE_FOO_SERVICE_PORT="50051",
        CASCADE_FOO_SERVICE_PORT_GRPC="50051",
        CASCADE_GRPC_PORT="tcp://10.0.0.1:50051",
        CASCADE_GRPC_PORT_50051_TCP="tcp://10.0.0.1:50051",
        CASCADE_GRPC_PORT_50051_TCP_ADDR="10.0.0.1",
        CASCADE_GATEWAY_REDIS_URL="redis://x",
    )
    assert settings == ServerSettings()


def test_an_empty_variable_counts_as_absent() -> None:
    assert load(CASCADE_GRPC_PORT="", CASCADE_AUTH_KEYS_FILE="") == ServerSettings()
