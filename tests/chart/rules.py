"""What a rendered Role grants, one by one."""

from tests.chart.rendering import Rendering

Rule = tuple[str, str, str]
"""(apiGroup, resource, verb)."""


def granted(rendering: Rendering, account: str) -> set[Rule]:
    """Everything that account of the release's namespace may do."""
    rules: set[Rule] = set()
    for binding in rendering.all("RoleBinding", "ClusterRoleBinding"):
        subjects = binding.get("subjects") or ()
        if any(each["kind"] == "ServiceAccount" and each["name"] == account for each in subjects):
            role = rendering.one(binding["roleRef"]["kind"], binding["roleRef"]["name"])
            rules |= expand(role)
    return rules


def expand(role: dict) -> set[Rule]:
    return {
        (group, resource, verb)
        for rule in role.get("rules") or ()
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
