"""The names of other tools lead to settings that exist here."""

from miniclip.config.groups import groups
from miniclip.config.hints import _known_keys
from miniclip.config.names import COMMON_NAMES


def test_every_common_name_leads_to_a_setting_that_exists() -> None:
    known = {*_known_keys(), *groups(), "hydra.run.dir"}
    assert {meant for meant in COMMON_NAMES.values() if meant not in known} == set()
