"""Every value does something: most are set at once, each to a text or number that stands nowhere else, and
are found in what is installed; the others are changed one by one, and change what is installed.
"""

import functools
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.chart.rendering import CHART, UniqueKeys, at, chart_schema, chart_values, leaves, template
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
            "http": {
                "ingress": {"tlsSecretName": "page-tls"},
                "webrtc": {"enabled": True, "iceServers": {"existingSecret": "turn"}},
            },
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
HOST = {"host": "some.example"}
PARENTS = {"parentRefs": [{"name": "edge"}]}
CONTEXT: dict[str, Values] = {
    "autoscaling.hpa.enabled": {"monitoring": {"serviceMonitor": {"enabled": True}}},
    "externalRedis.passwordKey": SWITCHES["redis"]["external"],
    "externalRedis.tls.clientCertificate": {
        "externalRedis": {"existingSecret": "my-redis", "tls": {"existingSecret": "my-redis-tls"}},
        "gateway": {"tokenKey": {"generate": True}},
    },
    "externalRedis.tls.existingSecret": SWITCHES["redis"]["external"],
    "gateway.grpcRoute.enabled": {"gateway": {"grpcRoute": PARENTS}},
    "gateway.http.httpRoute.enabled": {"gateway": {"http": {"httpRoute": PARENTS}}},
    "gateway.http.ingress.enabled": {"gateway": {"http": {"ingress": HOST}}},
    "gateway.ingress.enabled": {"gateway": {"ingress": HOST}},
    "networkPolicy.keda": {
        "autoscaling": {"keda": {"enabled": True}},
        "networkPolicy": {"clients": [{"podSelector": {}}]},
    },
    "redis.persistence.enabled": {"redis": {"enabled": True}},
    "stage.ranks": {"stage": {"gpu": {"count": 0}}},
    "tls.enabled": {"tls": {"issuerRef": {"name": "ca"}}},
    "tls.gatewayRequiresClientCertificates": SWITCHES["tls"]["certmanager"],
    "weights.hostPath.path": SWITCHES["weights"]["hostPath"],
    "weights.pvc.claimName": SWITCHES["weights"]["pvc"],
}
"""Where a value is not seen over any of the bases."""
BASES: tuple[Values, ...] = (OTHERWISE, EVERYTHING, STATED, PULLED, {})
"""Each value is tried over these, until one shows it."""
UNSEEN = {
    "global": "Helm's",
    "redis.global": "Helm's",
    "autoscaling.hpa.scrapedElsewhere": "it only lifts a check",
    "stage.gpu.perNode": "it only checks the count",
    "decoder.gpu.perNode": "it only checks the count",
}
ALONE = re.compile(
    r"""
    .*\.(drain\.deadlineSeconds | (terminationGracePeriod|start|progressDeadline)Seconds)  # compared
    | .*\.gpu\.(products | dra\.selectors)  # refused in some of the bases
    | gateway\.auth\.jwt\.jwks(Url | ConfigMap\.name)  # of two one
    | gateway\.http\.webrtc\.(firstPort | lastPort | hostPorts | publicAddress)
    | model\.name
    """,
    re.VERBOSE,
)
"""What would be refused beside other changes."""
WORD = "plainword"
"""It stands nowhere in the chart."""
CHECKED = re.compile(
    rf"{ALONE.pattern} | .*(fullnameOverride|deviceClassName) | model\.card | decoder\.weightsPath",
    re.VERBOSE,
)
"""Besides those: what must be a name, or fit to others, or is summed up in a name."""
TRIED = 4
"""So many values over each base."""
FIRST_MARK = 211
"""Counted up from here; no number of the chart is one of them."""
APART = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "{word}"}]}}
PEERS = [{"podSelector": {"matchLabels": {"app": "{word}"}}}]
SPECIAL: dict[str, list[Any]] = {
    "gateway.http.webrtc.firstPort": [50101],
    "gateway.http.webrtc.lastPort": [50102],
    "gateway.http.webrtc.publicAddress": ["192.0.2.7"],
    "gateway.auth.modes": [["mtls"], ["api_keys"]],
    "model.card": ['name = "demo"\n'],
    "networkPolicy.download": [[{"to": PEERS}]],
    "networkPolicy.extraEgress": [[{"to": PEERS}]],
    "weights.download.accessModes": [["ReadWriteOnce"]],
    "weights.download.tolerations": [[{"key": "{word}", "operator": "Exists"}]],
    "redis.tolerations": [[{"key": "{word}", "operator": "Exists"}]],
    "weights.source": ["download"],
    **{f"{each}.startSeconds": [2000] for each in ("stage", "decoder")},
    **{f"{each}.progressDeadlineSeconds": [5000] for each in ("stage", "decoder")},
    **{
        f"networkPolicy.{name}": [PEERS]
        for name in ("clients", "monitoring", "keda", "dns", "otlp", "externalRedis.peers")
    },
    **{f"{each}.affinity": [APART] for each in COMPONENTS},
    **{f"{each}.settings": [{"grpc": {"keepalive_time_s": "{number}"}}] for each in COMPONENTS},
    **{f"{each}.tolerations": [[{"key": "{word}", "operator": "Exists"}]] for each in COMPONENTS},
}
"""Where the schema does not lead to another value that fits."""
PODS = (*COMPONENTS, "weights.download", "tests", "redis")
SPECIAL |= {
    **{f"{each}.podSecurityContext": [{"runAsUser": "{number}"}] for each in PODS[:-1]},
    **{f"{each}.securityContext": [{"runAsUser": "{number}"}] for each in PODS[:-1]},
    **{f"{each}.extraEnv": [[{"name": "TZ", "value": "{word}"}]] for each in PODS},
    **{f"{each}.extraEnvFrom": [[{"secretRef": {"name": "{word}"}}]] for each in PODS},
    **{
        f"{chart}podSecurityContext.{name}": ["{number}"]
        for chart in ("", "redis.")
        for name in ("runAsUser", "runAsGroup", "fsGroup")
    },
    **{
        f"{chart}{name}": [value]
        for chart in ("", "redis.")
        for name, value in {
            "podSecurityContext.runAsNonRoot": False,
            "podSecurityContext.fsGroupChangePolicy": "Always",
            "podSecurityContext.seccompProfile.type": "Unconfined",
            "securityContext.allowPrivilegeEscalation": True,
            "securityContext.readOnlyRootFilesystem": False,
            "securityContext.capabilities.drop": ["{word}"],
        }.items()
    },
}
RANDOM = re.compile(r'(?<=: )"[A-Za-z0-9+/]{32,}={0,2}"')
"""Generated keys."""
PATHS = [path for path in leaves(chart_values()) if ".".join(path) not in UNSEEN]


@pytest.mark.slow
def test_every_value_is_seen() -> None:
    marked = {path: value for path, mark in numbered() if (value := marked_value(path, mark)) is not None}
    alone = [path for path in PATHS if path not in marked]
    assert len(marked) > 2 * len(alone), "most need no rendering of their own"
    together = unseen_of(marked)
    missing = [path for path in (*alone, *together) if not matters(path)]
    assert not missing, f"no rendering changes with {', '.join(map('.'.join, missing))}"


@pytest.mark.parametrize(
    "hostile", ["7", "true", "a: b, c} #", '"'], ids=["number", "boolean", "YAML", "quote"]
)
def test_a_text_stays_a_text_where_it_stands(hostile: str) -> None:
    """It becomes no number and no YAML: what is installed differs from a plain word's in it alone."""
    for base in (OTHERWISE, EVERYTHING, merge(STATED, SWITCHES["weights"]["pvc"])):
        paths = [path for path in PATHS if is_free_text(path, hostile) and path not in set(leaves(base))]
        paths = [path for path in paths if path[0] != "externalRedis" or "externalRedis" in base]
        plain, odd = (installed(merge(base, all_at(paths, text))) for text in (WORD, hostile))
        assert len(paths) > 30
        assert replaced(plain, hostile) == odd


def is_free_text(path: tuple[str, ...], text: str) -> bool:
    """Whether it may be this and any other text."""
    if not isinstance(value_at(chart_values(), path), str) or CHECKED.fullmatch(".".join(path)):
        return False
    schema = {**schema_at(path), "$defs": chart_schema()["$defs"]}
    return all(Draft202012Validator(schema).is_valid(each) for each in (text, WORD))


def all_at(paths: list[tuple[str, ...]], value: Any) -> Values:
    return functools.reduce(merge, (at(path, value) for path in paths), {})


def installed(values: Values) -> list[Any]:
    text = outcome(values)
    assert is_installed(text), text
    return list(yaml.load_all(text, UniqueKeys))


def replaced(value: Any, text: str) -> Any:
    """With the text for WORD, wherever it stands."""
    if isinstance(value, dict):
        return {replaced(key, text): replaced(inner, text) for key, inner in value.items()}
    if isinstance(value, list):
        return [replaced(inner, text) for inner in value]
    return value.replace(WORD, text) if isinstance(value, str) else value


def test_templates_read_values_that_are_there() -> None:
    """A misspelt one would silently be empty."""
    for path in CHART.glob("templates/**/*"):
        for name in re.findall(r"\.Values\.([\w.]+\w)", path.read_text() if path.is_file() else ""):
            value_at(chart_values(), name.split("."))


def numbered() -> Iterator[tuple[tuple[str, ...], int]]:
    yield from ((path, mark) for mark, path in enumerate(PATHS, FIRST_MARK))


def marked_value(path: tuple[str, ...], mark: int) -> Any:
    """The first value that fits and in which the mark is recognised; None: there is none."""
    if ALONE.fullmatch(".".join(path)):
        return None
    return next((value for value in others(path, mark) if tokens(value, mark)), None)


def tokens(value: Any, mark: int) -> list[str]:
    """How the mark will stand in manifests."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return [text for each in inner for text in tokens(each, mark)]
    return [str(value)] if str(mark) in str(value) else []


def unseen_of(marked: dict[tuple[str, ...], Any]) -> set[tuple[str, ...]]:
    """Those whose mark stands in no rendering. Some hide others, so a base may show more the second time."""
    marks = dict(numbered())
    unseen = set(marked)
    for base in (*BASES[:2], *BASES):
        values = functools.reduce(merge, (at(path, marked[path]) for path in PATHS if path in unseen), base)
        text = outcome(values)
        if not is_installed(text):
            continue  # refused: what is left does not go together without the rest
        plain = outcome(base)
        for path in sorted(unseen):
            shown = [
                re.compile(rf"(?<![\w.]){re.escape(each)}(?!\w)")
                for each in tokens(marked[path], marks[path])
            ]
            if all(each.search(text) and not each.search(plain) for each in shown):
                unseen.remove(path)
    return unseen


def matters(path: tuple[str, ...]) -> bool:
    """Whether another value changes what is installed."""
    mark = dict(numbered())[path]
    tried = [value for value in others(path, mark) if value != value_at(chart_values(), path)]
    assert tried, f"no other value found for {'.'.join(path)}"
    name = ".".join(path)
    bases = sorted(BASES, key=lambda base: path[0] not in base)
    for base in (CONTEXT[name],) if name in CONTEXT else bases:
        before = outcome(base)
        for value in tried[:TRIED]:
            after = outcome(merge(base, at(path, value)))
            if after != before and is_installed(after):
                return True
    return False


def outcome(values: Values) -> str:
    """Manifests without what is random, or the refusal; that of the schema is no answer."""
    done = template((), json.dumps(values, sort_keys=True), None, "demo", False)
    if done.returncode == 0:
        return RANDOM.sub("", done.stdout)
    assert "meet the specifications of the schema" not in done.stderr, done.stderr
    return done.stderr


def is_installed(text: str) -> bool:
    """Otherwise refused, which would say nothing of where the value goes."""
    return "kind: Deployment" in text


def value_at(values: Any, path: Iterable[str]) -> Any:
    for name in path:
        values = values[name]
    return values


def others(path: tuple[str, ...], mark: int) -> list[Any]:
    """Values that the schema allows there."""
    special = SPECIAL.get(".".join(path))
    return filled(special, mark) if special else list(examples(schema_at(path), path[-1], mark))


def filled(value: Any, mark: int) -> Any:
    """With the mark in its places."""
    if isinstance(value, dict):
        return {key: filled(inner, mark) for key, inner in value.items()}
    if isinstance(value, list):
        return [filled(inner, mark) for inner in value]
    return {"{word}": f"mark{mark}", "{number}": mark}.get(value, value)


def examples(schema: dict[str, Any], name: str, mark: int) -> Iterator[Any]:
    """Those with the mark first."""
    schema = follow(schema)
    for each in schema.get("anyOf") or schema.get("oneOf") or ():
        yield from examples(each, name, mark)
    if "enum" in schema:
        yield from schema["enum"]
        return
    kinds = schema.get("type", ())
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        yield from of_kind(kind, schema, name, mark)


def of_kind(kind: str, schema: dict[str, Any], name: str, mark: int) -> Iterator[Any]:
    match kind:
        case "boolean":
            yield from (True, False)
        case "integer" | "number":
            yield from numbers(schema, kind, mark)
        case "string":
            yield from (each for each in words(mark) if Draft202012Validator(schema).is_valid(each))
        case "array":
            yield [next(examples(schema["items"], name, mark))]
        case "object":
            yield {key: value for key, value in fields(schema, mark) if value is not None}


def numbers(schema: dict[str, Any], kind: str, mark: int) -> Iterator[Any]:
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    high = schema.get("maximum", schema.get("exclusiveMaximum", low + 1000))
    tried = (mark, mark / 1000 if kind == "number" else low + 1, (low + high) // 2, low + 1, low + 2)
    yield from (each for each in tried if low <= each <= high)


def words(mark: int) -> Iterator[str]:
    """One of them fits any pattern of the schema."""
    yield from (
        f"mark{mark}",
        f"/mark{mark}",
        f"{mark}Gi",
        f"{mark}h",
        f"{mark}s",
        f"https://mark{mark}.example",
    )
    yield from (f"mark{mark}.example", f"10.{mark // 256}.{mark % 256}.0/24", "12%", f"sha256:{mark:064d}")


def fields(schema: dict[str, Any], mark: int) -> Iterator[tuple[str, Any]]:
    """What an object needs, or one free name."""
    for name in schema.get("required") or ():
        yield name, next(examples(schema["properties"][name], name, mark))
    if not schema.get("required") and isinstance(schema.get("additionalProperties"), dict):
        yield "some.example/name", next(examples(schema["additionalProperties"], "", mark))
    for inner in (schema.get("patternProperties") or {}).values():
        yield "NCCL_SOME", next(examples(inner, "", mark))
