"""Files that the chart writes for the services are read here by those services' own readers."""

import copy
import hashlib
from pathlib import Path

import pytest

from cascade_core.config import find_card
from cascade_core.errors import InvalidConfig
from services.common.auth import load_keys
from services.common.resume_tokens import ResumeTokens
from services.gateway.base.quotas import Quotas
from tests.chart.pods import secret_data, settings_of
from tests.chart.rendering import ROOT, render
from tests.chart.switches import ACME

CARD = (ROOT / "cascade_core" / "cards" / "self-forcing-1.3b.toml").read_text()


def test_quotas(tmp_path: Path) -> None:
    tenants = [ACME, {"name": 'quo"ted', "max_priority": "low"}]
    rendering = render(set={"gateway": {"quotas": tenants}})
    settings = settings_of(rendering, rendering.workload("gateway"), tmp_path).gateway
    quotas = Quotas(settings)
    acme, quoted = quotas.of("acme"), quotas.of('quo"ted')
    assert (acme.max_sessions, acme.max_calls_per_s, acme.max_session_s) == (5, 2.5, 3600)
    assert quoted.max_priority < acme.max_priority
    assert quotas.of("others").max_sessions == settings.max_sessions_per_tenant


def test_token_key(tmp_path: Path) -> None:
    """A generated one is long enough, and every gateway's tokens are good at the others."""
    rendering = render()
    settings = settings_of(rendering, rendering.workload("gateway"), tmp_path).gateway
    one, other = (ResumeTokens(settings.token_key_file, settings.token_ttl_s) for _ in range(2))
    text, _ = one.issue("s", "acme", "viewer")
    assert other.read(text).session == "s"


@pytest.mark.parametrize("component", ["stage", "decoder"])
def test_peer_key(component: str, tmp_path: Path) -> None:
    """Stages and decoders know the key that gateways show, by its hash alone."""
    rendering = render(set={"peerAuth": {"enabled": True}})
    gateway = settings_of(rendering, rendering.workload("gateway"), tmp_path / "gateway")
    peer = settings_of(rendering, rendering.workload(component), tmp_path / component)
    key = gateway.peer.api_key_file.read_text().strip()
    (entry,) = load_keys(peer.auth.keys_file).keys
    assert peer.auth.modes == ("api_keys",)
    assert entry.sha256 == hashlib.sha256(key.encode()).hexdigest()
    assert len(key) >= 32
    assert key not in peer.auth.keys_file.read_text()


@pytest.mark.parametrize(
    ("component", "name"),
    [("stage", 'name = "mine"'), ("decoder", 'name = "mine"'), ("stage", "\tname='mine'")],
)
def test_model_card(component: str, name: str, tmp_path: Path) -> None:
    """A card of the user's own gets to the services as it is, however TOML lets it be written."""
    weights = {"source": "pvc", "pvc": {"claimName": "checkpoints"}}
    card = CARD.replace('name = "self-forcing-1.3b"', name)
    rendering = render(set={"model": {"name": "mine", "card": card}, "weights": weights})
    model = getattr(settings_of(rendering, rendering.workload(component), tmp_path), component).model
    assert find_card(str(model)).name == "mine"
    gateway = settings_of(rendering, rendering.workload("gateway"), tmp_path)
    assert gateway.gateway.default_model == "mine"


def test_generated_secrets_differ_and_stay() -> None:
    """Two installations have two keys, which `helm uninstall` leaves there."""
    one, other = (render(set={"redis": {"enabled": True}}, release=name) for name in ("one", "other"))
    secrets = {each["metadata"]["name"].removeprefix("one"): each for each in one.all("Secret")}
    assert len(secrets) == 2
    for name, document in secrets.items():
        mine = secret_data(one, document["metadata"]["name"])
        yours = secret_data(other, f"other{name}")
        assert set(mine) == set(yours)
        assert not set(mine.values()) & set(yours.values())
        assert document["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_a_broken_card_is_seen(tmp_path: Path) -> None:
    """The oracle above does read the file."""
    weights = {"source": "pvc", "pvc": {"claimName": "checkpoints"}}
    broken = {"model": {"name": "mine", "card": 'name = "mine"\nno_such_key = 1\n'}, "weights": weights}
    rendering = render(set=broken)
    with pytest.raises(InvalidConfig, match="no_such_key"):
        settings_of(rendering, rendering.workload("stage"), tmp_path)


def test_misspelt_variables_are_found(tmp_path: Path) -> None:
    """The oracle of properties/start.py does see a mistake."""
    rendering = copy.deepcopy(render())
    rendering.workload("stage").main["env"].append({"name": "CASCADE_STAGE_MODLE", "value": "demo"})
    with pytest.raises(InvalidConfig, match="CASCADE_STAGE_MODLE"):
        settings_of(rendering, rendering.workload("stage"), tmp_path)
