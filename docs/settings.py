"""`python docs/settings.py` writes docs/settings.md from the docstrings of the services' settings."""

from pathlib import Path

from services.common.reference import markdown
from services.decoder.settings import Settings as DecoderSettings
from services.gateway.base.settings import Settings as GatewaySettings
from services.stage.settings import Settings as StageSettings
from services.web.settings import Settings as WebSettings

PATH = Path(__file__).with_name("settings.md")
HEAD = """\
# Settings

Written by `make settings` from the docstrings beside the fields. A service reads
`CASCADE_<SECTION>_<FIELD>` from its environment, and `[section] field` from the TOML file that
`CASCADE_CONFIG_FILE` names; variables win, lists take commas, an empty variable counts as absent. A wrong or
unknown value ends the service with its name. `python -m services.stage --help` prints the same.

"""


def text() -> str:
    """The whole page."""
    kinds = (
        ("Gateway", GatewaySettings),
        ("Stage", StageSettings),
        ("Decoder", DecoderSettings),
        ("Web", WebSettings),
    )
    return HEAD + "\n".join(markdown(title, kind) for title, kind in kinds)


if __name__ == "__main__":
    PATH.write_text(text())
