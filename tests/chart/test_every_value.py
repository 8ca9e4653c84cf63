"""Every value does something: changed to another that the schema allows, it changes what is installed."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.chart.rendering import at, chart_values, leaves, template
from tests.chart.schema_paths import follow, schema_at
from tests.chart.switches import MODEL, SWITCHES, Values, combine, merge

COMPONENTS = ("stage", "decoder", "gateway")
EVERYTHING = merge(
    combine(
        {
            "tls": "mutual",
            "redis": "bundled",
            "scaling": "keda",
            "monitoring": "watched",
            "edge": "ingress",
            "web": "webingress",
            "peers": "keyed",
            "quotas": "quotas",
            "auth": "keys",
        }
    ),
    {
        "redis": {"persistence": {"enabled": True}},
        "gateway": {
            "ingress": {"tlsSecretName": "edge-tls"},
            "http": {"ingress": {"tlsSecretName": "page-tls"}},
        },
        "tests": {"apiKey": {"existingSecret": "test-key"}},
    },
)
OTHERWISE = merge(
    combine(
        {
            "tls": "secrets",
            "redis": "external",
            "scaling": "hpa",
            "edge": "route",
            "web": "webroute",
            "auth": "jwt",
        }
    ),
    {
        **MODEL,
        "weights": {"source": "download", "download": {"tokenSecret": {"name": "hub"}}},
        "stage": {"gpu": {"allocation": "dra"}},
        "decoder": {"gpu": {"allocation": "dra"}},
    },
)
STATED = {
    "gateway": {
        "service": {"type": "LoadBalancer"},
        "auth": {
            "modes": ["jwt"],
            "jwt": {"jwksConfigMap": {"name": "keys"}, "issuer": "https://id.example", "audience": "us"},
        },
    },
    "autoscaling": {"hpa": {"enabled": True}},
    "monitoring": {"serviceMonitor": {"enabled": True}},
}
PULLED = {**MODEL, **SWITCHES["weights"]["image"], "rbac": {"create": True}}
CONTEXT: dict[str, Values] = {
    "networkPolicy.keda": {
        "autoscaling": {"keda": {"enabled": True}},
        "networkPolicy": {"clients": [{"podSelector": {}}]},
    },
    "redis.persistence.enabled": {"redis": {"enabled": True}},
    "weights.hostPath.path": SWITCHES["weights"]["hostPath"],
    "weights.pvc.claimName": SWITCHES["weights"]["pvc"],
}
"""Where a value is not seen over any of the bases."""
BASES: tuple[Values, ...] = ({}, EVERYTHING, OTHERWISE, STATED, PULLED)
"""Each value is tried over these, until one shows it."""
PEERS = [[{"ipBlock": {"cidr": "10.0.0.0/8"}}]]
APART = {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "kubernetes.io/hostname"}]}
SPECIAL: dict[str, list[Any]] = {
    "gateway.auth.modes": [["mtls"], ["api_keys"]],
    "model.card": ['name = "demo"\n'],
    "networkPolicy.apiServer.cidrs": [["10.0.0.0/8"]],
    "weights.download.accessModes": [["ReadWriteOnce"]],
    "weights.source": ["download"],
    **{
        f"networkPolicy.{name}": PEERS
        for name in ("clients", "monitoring", "keda", "dns", "otlp", "externalRedis.peers")
    },
    **{f"{each}.affinity": [{"podAntiAffinity": APART}] for each in COMPONENTS},
    **{f"{each}.extraEnv": [[{"name": "TZ", "value": "UTC"}]] for each in COMPONENTS},
    **{f"{each}.settings": [{"grpc": {"keepalive_time_s": 25}}] for each in COMPONENTS},
}
"""Where the schema does not lead to another value that fits."""
UNSEEN = {
    "global": "Helm's",
    "redis.global": "Helm's",
    "autoscaling.hpa.scrapedElsewhere": "it only lifts a check",
}
WORDS = (
    *("some-name", "7Gi", "11s", "25h", "/some", "gpu.example", "12%", "10.0.0.0/8"),
    *("https://some.example:8443", f"sha256:{'0' * 64}"),
)
"""One of them fits any pattern of the schema."""
RANDOM = re.compile(r'(?<=: )"[A-Za-z0-9+/]{32,}={0,2}"')
"""Generated keys."""
PATHS = [path for path in leaves(chart_values()) if ".".join(path) not in UNSEEN]


@pytest.mark.parametrize("path", PATHS, ids=".".join)
def test_it_matters(path: tuple[str, ...]) -> None:
    tried = [value for value in others(path) if value != value_at(chart_values(), path)]
    assert tried, "no other value found"
    name = ".".join(path)
    bases = sorted(BASES, key=lambda base: path[0] not in base)
    for base in (CONTEXT[name],) if name in CONTEXT else bases:
        before = outcome(base)
        for value in tried[:2]:
            if outcome(merge(base, at(path, value))) != before:
                return
    pytest.fail(f"no rendering changes with {tried}")


def outcome(values: Values) -> str:
    """Manifests without what is random, or the refusal; that of the schema is no answer."""
    done = template((), json.dumps(values, sort_keys=True), None, "demo", False)
    if done.returncode == 0:
        return RANDOM.sub("", done.stdout)
    assert "meet the specifications of the schema" not in done.stderr, done.stderr
    return done.stderr


def value_at(values: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        values = values[name]
    return values


def others(path: tuple[str, ...]) -> list[Any]:
    """Values that the schema allows there."""
    return SPECIAL.get(".".join(path)) or list(examples(schema_at(path), path[-1]))


def examples(schema: dict[str, Any], name: str) -> Iterator[Any]:
    schema = follow(schema)
    for each in schema.get("anyOf") or schema.get("oneOf") or ():
        yield from examples(each, name)
    if "enum" in schema:
        yield from schema["enum"]
    kinds = schema.get("type", ())
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        yield from of_kind(kind, schema, name)


def of_kind(kind: str, schema: dict[str, Any], name: str) -> Iterator[Any]:
    match kind:
        case "boolean":
            yield from (True, False)
        case "integer" | "number":
            yield from numbers(schema, kind)
        case "string":
            yield from strings(schema)
        case "array":
            yield [next(examples(schema["items"], name))]
        case "object":
            yield {key: value for key, value in fields(schema) if value is not None}


def numbers(schema: dict[str, Any], kind: str) -> Iterator[Any]:
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    high = schema.get("maximum", schema.get("exclusiveMaximum", low + 1000))
    yield (low + high) / 2 if kind == "number" else (low + high) // 2
    yield from (each for each in (low + 1, low + 2) if each <= high)


def strings(schema: dict[str, Any]) -> Iterator[str]:
    """Those that fit the pattern."""
    yield from (each for each in WORDS if Draft202012Validator(schema).is_valid(each))


def fields(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What an object needs, or one free name."""
    for name in schema.get("required") or ():
        yield name, next(examples(schema["properties"][name], name))
    if not schema.get("required") and isinstance(schema.get("additionalProperties"), dict):
        yield "some.example/name", next(examples(schema["additionalProperties"], ""))
    for inner in (schema.get("patternProperties") or {}).values():
        yield "NCCL_SOME", next(examples(inner, ""))
