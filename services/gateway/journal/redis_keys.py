"""The names of keys in Redis; `redis_store.py` says what is in each."""

from urllib.parse import quote


def session_keys(prefix: str, session: str) -> tuple[str, str]:
    """(head, data)."""
    return f"{prefix}:{{{session}}}:head", f"{prefix}:{{{session}}}:data"


def tenant_keys(prefix: str, tenant: str) -> tuple[str, str, str]:
    """(places, kept, open)."""
    start = f"{prefix}:tenant:{{{quote(tenant, safe='')}}}"
    return f"{start}:places", f"{start}:kept", f"{start}:open"


def creating_key(prefix: str, tenant: str) -> str:
    """In the slot of `tenant_keys`."""
    return f"{prefix}:tenant:{{{quote(tenant, safe='')}}}:creating"


def request_key(prefix: str, tenant: str, request_id: str) -> str:
    return f"{prefix}:request:{quote(tenant, safe='')}:{request_id}"
