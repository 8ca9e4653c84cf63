"""What a container of a rendered pod would find when it starts: its environment and its files."""

import base64
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from services.common.environment import load_settings
from services.decoder.settings import Settings as DecoderSettings
from services.gateway.base.settings import Settings as GatewaySettings
from services.stage.settings import Settings as StageSettings
from tests.chart.rendering import NAMESPACE, Document, Rendering, Workload

SETTINGS = {"stage": StageSettings, "decoder": DecoderSettings, "gateway": GatewaySettings}
FIELDS = {
    "metadata.name": "demo-pod-0",
    "metadata.namespace": NAMESPACE,
    "metadata.uid": "9f3c2f9e-3f0c-4f5e-8d0a-3d6c4b1a2e10",
    "spec.nodeName": "node-1",
    "spec.serviceAccountName": "demo",
    "status.podIP": "10.1.2.3",
    "status.hostIP": "10.0.0.1",
}
"""What the downward API gives."""
SECRETS = {"url": "redis://:of-a-secret@redis.example:6379/0"}
"""By key: what Secrets that users bring hold."""
FOREIGN = "0123456789abcdef" * 4
"""What stands in for a file that users bring."""
FILE_SOURCES = ("secret", "configMap", "projected")


def settings_of(rendering: Rendering, workload: Workload, folder: Path) -> Any:
    """The settings with which its process would start; raises InvalidConfig as the process would. Paths of
    Secrets and ConfigMaps become files of `folder`."""
    variables = environment(rendering, workload.main)
    for name, value in variables.items():
        if name.startswith("CASCADE_") and value.startswith("/"):
            found = locate(workload.spec, workload.main, value)
            assert found is not None, f"{workload.name}: {name}={value} lies in no volume"
            variables[name] = str(stand_in(rendering, *found, folder, value))
    return load_settings(SETTINGS[workload.component], variables)


def environment(rendering: Rendering, container: Document) -> dict[str, str]:
    """Its variables, references resolved as the kubelet does."""
    found: dict[str, str] = {}
    for source in container.get("envFrom") or ():
        data = rendering.one("ConfigMap", source["configMapRef"]["name"])["data"]
        found |= {source.get("prefix", "") + key: value for key, value in data.items()}
    for each in container.get("env") or ():
        value = each.get("value", "") if "valueFrom" not in each else resolve(rendering, each["valueFrom"])
        found[each["name"]] = expand(value, found)
    return found


def expand(value: str, known: Mapping[str, str]) -> str:
    """$(NAME) of variables before this one; others stay as they are."""
    return re.sub(r"\$\(([A-Za-z_]\w*)\)", lambda match: known.get(match[1], match[0]), value)


def resolve(rendering: Rendering, source: Document) -> str:
    if "fieldRef" in source:
        return FIELDS[source["fieldRef"]["fieldPath"]]
    if "configMapKeyRef" in source:
        reference = source["configMapKeyRef"]
        return rendering.one("ConfigMap", reference["name"])["data"][reference["key"]]
    if "secretKeyRef" in source:
        reference = source["secretKeyRef"]
        own = secret_data(rendering, reference["name"])
        return own[reference["key"]] if own is not None else SECRETS.get(reference["key"], "of-a-secret")
    return "1"  # resourceFieldRef: a number


def secret_data(rendering: Rendering, name: str) -> dict[str, str] | None:
    """Of a Secret in the rendering; None: it comes from elsewhere."""
    own = [each for each in rendering.all("Secret") if each["metadata"]["name"] == name]
    if not own:
        return None
    encoded = {
        key: base64.b64decode(value).decode("latin1") for key, value in (own[0].get("data") or {}).items()
    }
    return {**encoded, **(own[0].get("stringData") or {})}


def locate(spec: Document, container: Document, path: str) -> tuple[Document, PurePosixPath] | None:
    """(volume, path within it) of a file in the container."""
    wanted = PurePosixPath(path)
    volumes = {each["name"]: each for each in spec.get("volumes") or ()}
    mounts = sorted(container.get("volumeMounts") or (), key=lambda each: -len(each["mountPath"]))
    for mount in mounts:
        if wanted.is_relative_to(mount["mountPath"]):
            inside = mount.get("subPath", "") / wanted.relative_to(mount["mountPath"])
            return volumes[mount["name"]], inside
    return None


def stand_in(
    rendering: Rendering, volume: Document, inside: PurePosixPath, folder: Path, path: str
) -> Path | str:
    """A file in place of one that a Secret or ConfigMap gives; another volume's path stays as it is."""
    if not any(kind in volume for kind in FILE_SOURCES):
        return path
    keys = known_keys(rendering, volume)
    assert keys is None or str(inside) in keys, f"{path}: {volume['name']} holds only {sorted(keys)}"
    file = folder / volume["name"] / inside
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content(rendering, volume, str(inside)) or FOREIGN)
    return file


def content(rendering: Rendering, volume: Document, key: str) -> str | None:
    """Of a file whose Secret or ConfigMap is in the rendering. Items keep their keys' names."""
    if "secret" in volume:
        return (secret_data(rendering, volume["secret"]["secretName"]) or {}).get(key)
    if "configMap" in volume:
        name = volume["configMap"]["name"]
        own = [each for each in rendering.all("ConfigMap") if each["metadata"]["name"] == name]
        return own[0]["data"].get(key) if own else None
    return None


def known_keys(rendering: Rendering, volume: Document) -> set[str] | None:
    """File names that a volume shows for certain; None: it shows all keys of an object from elsewhere."""
    sources = volume["projected"]["sources"] if "projected" in volume else [volume]
    keys: set[str] = set()
    for source in sources:
        found = source_keys(rendering, source)
        if found is None:
            return None
        keys |= found
    return keys


def source_keys(rendering: Rendering, source: Document) -> set[str] | None:
    if "serviceAccountToken" in source:
        return {source["serviceAccountToken"]["path"]}
    if "downwardAPI" in source:
        return {each["path"] for each in source["downwardAPI"]["items"]}
    kind = "secret" if "secret" in source else "configMap"
    reference = source[kind]
    if reference.get("items"):
        return {each["path"] for each in reference["items"]}
    name = reference.get("secretName") or reference.get("name")
    if kind == "secret":
        data = secret_data(rendering, name)
        return None if data is None else set(data)
    own = [each for each in rendering.all("ConfigMap") if each["metadata"]["name"] == name]
    return set(own[0].get("data") or ()) if own else None


def references(spec: Document) -> Iterator[tuple[str, str]]:
    """(kind, name) of all Secrets, ConfigMaps, claims and accounts that a pod needs to start."""
    for volume in spec.get("volumes") or ():
        for source in volume["projected"]["sources"] if "projected" in volume else [volume]:
            if "secret" in source:
                yield "Secret", source["secret"].get("secretName") or source["secret"]["name"]
            if "configMap" in source:
                yield "ConfigMap", source["configMap"]["name"]
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
    for each in spec.get("imagePullSecrets") or ():
        yield "Secret", each["name"]
    for claim in spec.get("resourceClaims") or ():
        yield "ResourceClaimTemplate", claim["resourceClaimTemplateName"]
    if spec.get("serviceAccountName", "default") != "default":
        yield "ServiceAccount", spec["serviceAccountName"]
    for container in (*spec.get("initContainers", ()), *spec["containers"]):
        yield from references_of_environment(container)


def references_of_environment(container: Document) -> Iterator[tuple[str, str]]:
    kinds = {"secretKeyRef": "Secret", "configMapKeyRef": "ConfigMap"}
    for each in container.get("env") or ():
        for key, reference in (each.get("valueFrom") or {}).items():
            if key in kinds:
                yield kinds[key], reference["name"]
    for each in container.get("envFrom") or ():
        for key, reference in each.items():
            if key.endswith("Ref"):
                yield key.removesuffix("Ref")[0].upper() + key.removesuffix("Ref")[1:], reference["name"]
