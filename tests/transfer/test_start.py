"""What a run notes of where it started."""

from jaxssl.transfer.start import Start, write_start


def test_the_notes_of_an_earlier_start_do_not_stay(tmp_path):
    """One that saved nothing may have kept its base, or have had one."""
    before, base = Start(base={"run": "a"}), Start(base={"run": "b"})
    for start, keeps_base, left in (
        (before, True, ["base.json", "ledger.json"]),
        (base, False, ["ledger.json"]),
        (before, True, ["base.json", "ledger.json"]),
        (Start(), False, []),
        (before, True, ["base.json", "ledger.json"]),
        (Start(), True, []),
    ):
        write_start(tmp_path, start, keeps_base=keeps_base)
        assert sorted(path.name for path in tmp_path.iterdir()) == left
