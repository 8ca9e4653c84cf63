"""benchmarks.warm_up: its table says what the decoder does."""

import json
from pathlib import Path

import pytest

from benchmarks.warm_up import main


@pytest.mark.slow
def test_more_warm_up_is_nearer_to_no_break(tmp_path: Path) -> None:
    assert main(["--block-frames", "1", "--max-warmup", "3", "--blocks", "8", "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "warm-up-demo-1.json").read_text())["rows"]
    assert [row["blocks"] for row in rows] == [0, 1, 2, 3]
    assert [row["latent frames"] for row in rows] == [0, 1, 2, 3]
    worst = [row["float32"] for row in rows]
    assert worst == sorted(worst)
    assert worst[0] < 40 < worst[3] + 20
    assert "| blocks | latent frames |" in (tmp_path / "warm-up-demo-1.md").read_text()


def test_a_clip_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"GIF89a")
    with pytest.raises(SystemExit, match=r"^benchmarks\.warm_up: is GIF, must be MP4$"):
        main(["--clip", str(tmp_path / "clip.mp4"), "--out", str(tmp_path)])
