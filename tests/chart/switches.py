"""The chart's switches and their positions, as values over the defaults."""

from collections.abc import Mapping
from typing import Any

Values = dict[str, Any]

ACME = {"name": "acme", "max_sessions": 5, "max_calls_per_s": 2.5, "max_session_s": 3600}
MODEL = {"model": {"name": "self-forcing-1.3b"}}
"""One whose weights the images do not hold."""

EXTRAS = {
    "podAnnotations": {"sidecar.istio.io/inject": "false"},
    "podLabels": {"team": "video"},
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}],
    "extraVolumes": [{"name": "bundle", "configMap": {"name": "corporate-ca"}}],
    "extraVolumeMounts": [{"name": "bundle", "mountPath": "/etc/ssl/corporate", "readOnly": True}],
}
GIVEN = {"podSecurityContext": dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"))}
"""By the cluster."""

SWITCHES: dict[str, dict[str, Values]] = {
    "tls": {
        "plain": {},
        "certmanager": {
            "tls": {"enabled": True, "issuerRef": {"name": "cluster-ca", "kind": "ClusterIssuer"}}
        },
        "mutual": {
            "tls": {"enabled": True, "issuerRef": {"name": "ca"}, "gatewayRequiresClientCertificates": True}
        },
        "secrets": {
            "tls": {
                "enabled": True,
                "existingSecrets": {"stage": "stage-tls", "decoder": "decoder-tls", "gateway": "gateway-tls"},
            }
        },
    },
    "redis": {
        "memory": {},
        "bundled": {"redis": {"enabled": True}, "gateway": {"replicas": 2}},
        "external": {"externalRedis": {"existingSecret": "my-redis"}, "gateway": {"replicas": 2}},
        "externaltls": {
            "externalRedis": {
                "existingSecret": "my-redis",
                "passwordKey": "password",
                "tls": {"existingSecret": "my-redis-tls", "clientCertificate": True},
            },
            "gateway": {"replicas": 2},
        },
    },
    "gpus": {
        "plugin": {},
        "dra": {"stage": {"gpu": {"allocation": "dra"}}, "decoder": {"gpu": {"allocation": "dra"}}},
        "none": {"stage": {"gpu": {"count": 0}}, "decoder": {"gpu": {"count": 0}}},
    },
    "weights": {
        "none": {},
        "pvc": {**MODEL, "weights": {"source": "pvc", "pvc": {"claimName": "checkpoints"}}},
        "hostPath": {**MODEL, "weights": {"source": "hostPath", "hostPath": {"path": "/srv/checkpoints"}}},
        "image": {**MODEL, "weights": {"source": "image", "image": {"reference": "registry.example/wan:1"}}},
        "download": {**MODEL, "weights": {"source": "download"}},
        "argocd": {**MODEL, "weights": {"source": "download", "download": {"argoCD": True}}},
    },
    "auth": {
        "open": {},
        "keys": {"gateway": {"auth": {"modes": ["api_keys"], "apiKeys": {"existingSecret": "api-keys"}}}},
        "jwt": {
            "gateway": {
                "auth": {
                    "modes": ["jwt"],
                    "jwt": {
                        "jwksUrl": "https://id.example/jwks.json",
                        "issuer": "https://id.example",
                        "audience": "cascade",
                    },
                }
            }
        },
    },
    "scaling": {
        "fixed": {},
        "keda": {"autoscaling": {"keda": {"enabled": True}}},
        "hpa": {"autoscaling": {"hpa": {"enabled": True, "scrapedElsewhere": True}}},
    },
    "monitoring": {
        "unwatched": {},
        "watched": {
            "monitoring": {
                "serviceMonitor": {"enabled": True},
                "rules": {"enabled": True},
                "dashboard": {"enabled": True},
            },
            "telemetry": {"otlpEndpoint": "http://otel.observability:4317"},
            "networkPolicy": {
                "otlp": [
                    {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "observability"}}}
                ]
            },
        },
    },
    "edge": {
        "service": {},
        "balancer": {"gateway": {"service": {"type": "LoadBalancer"}}},
        "ingress": {"gateway": {"ingress": {"enabled": True, "host": "video.example"}}},
        "route": {
            "gateway": {
                "grpcRoute": {"enabled": True, "parentRefs": [{"name": "edge"}], "hostnames": ["v.example"]}
            }
        },
    },
    "web": {
        "page": {},
        "webingress": {"gateway": {"http": {"ingress": {"enabled": True, "host": "page.example"}}}},
        "webroute": {
            "gateway": {
                "http": {
                    "port": 80,
                    "httpRoute": {
                        "enabled": True,
                        "parentRefs": [{"name": "edge", "sectionName": "https"}],
                        "hostnames": ["page.example"],
                    },
                }
            }
        },
        "webrtc": {"gateway": {"http": {"webrtc": {"enabled": True}}}},
        "nopage": {"gateway": {"http": {"enabled": False}}},
    },
    "peers": {"unkeyed": {}, "keyed": {"peerAuth": {"enabled": True}}},
    "quotas": {
        "equal": {},
        "quotas": {"gateway": {"quotas": [ACME, {"name": "guests", "max_priority": "low"}]}},
    },
    "policies": {"policies": {}, "nopolicies": {"networkPolicy": {"enabled": False}}},
    "rollout": {"surge": {}, "inplace": {"stage": {"strategy": "inPlace"}}},
    "cluster": {
        "any": {},
        "openshift": {**GIVEN, "redis": GIVEN, "networkPolicy": {"dnsPorts": [53, 5353]}},
        "quota": {"cpuLimitFactor": 2, "redis": {"cpuLimitFactor": 2}},
        "corporate": dict.fromkeys(("stage", "decoder", "gateway", "tests", "redis"), EXTRAS)
        | {"weights": {"download": EXTRAS}},
    },
    "ip": {"v4": {}, "v6": {"network": {"ipFamily": "IPv6"}}},
}


def combine(row: Mapping[str, str]) -> Values:
    """The values of one position per switch."""
    values: Values = {}
    for switch, position in row.items():
        values = merge(values, SWITCHES[switch][position])
    return values


def merge(under: Values, over: Values) -> Values:
    """Mappings merged as helm merges them."""
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged
