"""Statistics files that someone forged: the checksum is right, and the content is hostile."""

from __future__ import annotations

import pytest
from forgeries import exercise, forgeries
from hypothesis import given, settings
from states import POLICIES, bits, learned

import streambn as sbn
from streambn.snapshot import Snapshot, decode, encode

MB = 1 << 20


@pytest.mark.parametrize("name", POLICIES)
def test_whatever_a_stream_gives_is_saved_and_loaded(name: str) -> None:
    @settings(settings.get_profile("few"))
    @given(learned(POLICIES[name]()))
    def law(normalizer: sbn.Normalizer) -> None:
        content = encode(Snapshot(normalizer.statistics, frozen=False))
        loaded = decode(content).statistics
        assert bits(loaded.state) == bits(normalizer.statistics.state)
        assert encode(Snapshot(loaded, frozen=False)) == content
        assert exercise(content)

    law()


@pytest.mark.parametrize("name", POLICIES)
def test_a_forged_file_is_refused_or_behaves(name: str) -> None:
    @settings(settings.get_profile("few"))
    @given(forgeries(learned(POLICIES[name]())))
    def law(content: bytes) -> None:
        exercise(content)

    law()
