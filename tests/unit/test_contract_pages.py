"""The gRPC reference of the site, as docs/site/contracts.py writes it from the contracts."""

import re

from cascade.v1 import decoder_pb2, operator_pb2, session_pb2, stage_pb2
from docs.site import contracts

PAGES = dict(contracts.pages())
LINK = re.compile(r"\]\((\w+)\.md(?:#([\w.-]+))?\)")


def test_every_call_message_and_value_is_there() -> None:
    for module in (session_pb2, stage_pb2, decoder_pb2, operator_pb2):
        file = module.DESCRIPTOR
        page = PAGES[file.name.rpartition("/")[2].removesuffix(".proto")]
        calls = [call.name for service in file.services_by_name.values() for call in service.methods]
        missing = [name for name in calls if f"### {name}\n" not in page]
        messages = file.message_types_by_name.values()
        missing += [message.name for message in messages if f"### {message.name} {{#" not in page]
        missing += [f.full_name for each in messages for f in each.fields if f"| `{f.name}` |" not in page]
        values = [value for enum in file.enum_types_by_name.values() for value in enum.values]
        missing += [value.name for value in values if f"| `{value.name}` |" not in page]
        assert missing == []


def test_links_between_contracts_lead_somewhere() -> None:
    anchors = {name: set(re.findall(r"\{#([\w.-]+)\}", page)) for name, page in PAGES.items()}
    links = {link for page in PAGES.values() for link in LINK.findall(page)}
    assert len(links) > 40
    assert [(home, anchor) for home, anchor in links if anchor and anchor not in anchors[home]] == []
